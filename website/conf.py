"""Sphinx's settings for the site that website/build.py makes."""

project = "monconn"
author = "The monconn developers"
copyright = "The monconn developers, MIT licence"
html_title = "monconn"
html_theme = "furo"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6e99", "color-brand-content": "#0b6e99"},
    "dark_css_variables": {"color-brand-primary": "#5ec4eb", "color-brand-content": "#5ec4eb"},
}

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/README"
myst_heading_anchors = 4  # as GitHub has them
myst_links_external_new_tab = True
smartquotes = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "undoc-members": False}
