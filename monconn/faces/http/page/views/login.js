/**
 * Logging in with a one-time code, which a link brings in its fragment: a fragment is never sent to
 * a server, nor in a Referer.
 */
import { Problem, post } from "../api.js";
import { h, replace } from "../dom.js";

/** The code of the address, which is taken out of it, and out of the history. */
function takeCode() {
  const found = /^#\/?login[#/?]?(?:code=)?(.*)$/s.exec(location.hash);
  const code = found?.[1] ?? "";
  if (location.hash !== "") {
    history.replaceState(null, "", location.pathname);
  }
  return code;
}

/**
 * @param {HTMLElement} root
 * @param {() => void} onDone Somebody is logged in.
 */
export async function mountLogin(root, onDone) {
  const code = takeCode();
  let problem = "";
  if (code !== "") {
    replace(root, h("h1", null, "Logging in …"));
    try {
      await post("session", { code });
      onDone();
      return;
    } catch (error) {
      if (!(error instanceof Problem)) {
        throw error;
      }
      problem = error.detail || error.title;
    }
  }
  replace(
    root,
    h("h1", null, "Log in"),
    problem === "" ? null : h("p", { class: "error", role: "alert" }, problem),
    h("p", null, "On the machine where monconn runs, this opens the page with a link that is good once:"),
    h("pre", { class: "command" }, "monconn web"),
    h("p", null, "Without a browser there, this prints the link:"),
    h("pre", { class: "command" }, "monconn web --print"),
  );
}
