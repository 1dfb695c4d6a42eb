/**
 * Logging in with a one-time code, which a link brings in its fragment: a fragment is never sent to
 * a server, nor in a Referer.
 */
import { Problem, get, post } from "../api.js";
import { confirmAction, notify } from "../dialogs.js";
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
 * Use the code of a link. Anybody may have a browser open one: what is done then would be done as
 * somebody else. So who is logged in by another name is asked first.
 *
 * @param {string} code
 * @returns {Promise<boolean>} False if one is to stay who one is.
 * @throws {Problem}
 */
async function useCode(code) {
  try {
    await post("session", { code });
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 409) {
      throw error;
    }
    const isWanted = await confirmAction({
      title: "Log in as somebody else?",
      text: [
        h("p", null, sentence(error.detail)),
        h("p", null, "Go on only if you have asked for this link yourself."),
      ],
      label: "Log in",
      danger: true,
    });
    if (!isWanted) {
      return false;
    }
    await post("session", { code, replace: true });
  }
  return true;
}

/** Whether this browser is logged in, be it by a link or not. */
async function isLoggedIn() {
  try {
    await get("session");
    return true;
  } catch (error) {
    if (error instanceof Problem) {
      return false;
    }
    throw error;
  }
}

/** @param {string} text */
function sentence(text) {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}

/**
 * @param {HTMLElement} root
 * @param {string} notice Why somebody is here who was logged in.
 * @param {(isNew: boolean) => void} onDone Somebody is logged in: now, or still.
 */
export async function mountLogin(root, notice, onDone) {
  const problem = h("p", { class: "error", role: "alert" });
  problem.hidden = true;
  /** @param {unknown} error */
  function show(error) {
    if (!(error instanceof Problem)) {
      throw error;
    }
    problem.textContent = sentence(error.detail || error.title);
    problem.hidden = false;
  }
  /** @param {string} token */
  async function logIn(token) {
    try {
      await post("session", { token });
    } catch (error) {
      show(error);
      return;
    }
    onDone(true);
  }
  const code = takeCode();
  if (code !== "") {
    replace(root, h("h1", null, "Logging in …"));
    try {
      onDone(await useCode(code));
      return;
    } catch (error) {
      show(error);
    }
    if (await isLoggedIn()) {
      notify(problem.textContent ?? "", "warning");
      onDone(false);
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
            void logIn(token.value.trim());
          }
        },
      },
      h("label", { for: "login-token" }, "Or with a token:"),
      h("div", { class: "toolbar" }, token, h("button", { type: "submit" }, "Log in")),
    ),
  );
}
