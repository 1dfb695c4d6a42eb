// Not a module: it runs before anything is painted, so that a dark page never begins white.
(() => {
  /** @type {string | null} */
  let theme = null;
  try {
    theme = localStorage.getItem("monconn-theme");
  } catch {
    // Without storage the page follows the system.
  }
  if (theme === "dark" || theme === "light") {
    document.documentElement.dataset.theme = theme;
  }
})();
