/**
 * Logging in with a one-time code, which a link brings in its fragment: a fragment is never sent to
 * a server, nor in a Referer.
 */
import { Problem, post } from "../api.js";
import { h, replace } from "../dom.js";

/** The code of the address, which is taken out of it, and out of the browser's history. */
function takeCode() {
  const found = /^#\/?login[#/?]?(?:code=)?(.*)$/s.exec(location.hash);
  if (found === null) {
    return "";
  }
  history.replaceState(null, "", location.pathname);
  try {
    return decodeURIComponent(found[1] ?? "");
  } catch {
    return found[1] ?? "";
  }
}

/**
 * @param {HTMLElement} root
 * @param {string} notice Why somebody is here who was logged in.
 * @param {() => void} onDone Somebody is logged in.
 */
export async function mountLogin(root, notice, onDone) {
  const problem = h("p", { class: "error", role: "alert" });
  problem.hidden = true;
  /** @param {Record<string, string>} secret */
  async function logIn(secret) {
    try {
      await post("session", secret);
    } catch (error) {
      if (!(error instanceof Problem)) {
        throw error;
      }
      const text = error.detail || error.title;
      problem.textContent = `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
      problem.hidden = false;
      return false;
    }
    onDone();
    return true;
  }
  const code = takeCode();
  if (code !== "") {
    replace(root, h("h1", null, "Logging in …"));
    if (await logIn({ code })) {
      return;
    }
  }
  const token = h("input", { type: "password", id: "login-token", autocomplete: "off", spellcheck: "false" });
  replace(
    root,
    h("h1", null, "Log in"),
    notice === "" ? null : h("p", { role: "status" }, notice),
    problem,
    h("p", null, "On the machine where monconn runs, this opens the page with a link that works once:"),
    h("pre", { class: "command", tabindex: "0" }, "monconn web"),
    h("p", null, "If there is no browser, this prints the link:"),
    h("pre", { class: "command", tabindex: "0" }, "monconn web --print"),
    h(
      "form",
      {
        class: "login-form",
        onsubmit: (/** @type {Event} */ event) => {
          event.preventDefault();
          if (token.value.trim() !== "") {
            void logIn({ token: token.value.trim() });
          }
        },
      },
      h("label", { for: "login-token" }, "Or with a token:"),
      h("div", { class: "toolbar" }, token, h("button", { type: "submit" }, "Log in")),
    ),
  );
}
