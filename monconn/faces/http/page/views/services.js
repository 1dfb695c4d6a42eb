/** The services in figures, with their connections and rates over the last minutes. */
import { h, keyed, replace, setText } from "../dom.js";
import { formatBytes, formatCount } from "../units.js";
import { serviceActions } from "./service_actions.js";

/** @type {import("../types.js").View} */
export default {
  title: "Services",
  mount(root, _params, context) {
    const list = h("div", { class: "cards" });
    replace(root, h("h1", null, "Services"), list);
    function draw() {
      keyed(
        list,
        context.live.tick?.services ?? [],
        (service) => service.sid,
        () => h("section", { class: "card" }, h("h2"), h("p"), h("div", { class: "card-actions" })),
        (card, service) => {
          setText(/** @type {Element} */ (card.children[0]), service.sid);
          setText(
            /** @type {Element} */ (card.children[1]),
            `${service.state} · ${formatCount(service.connections)} connections · ${formatBytes(service.up)} up · ${formatBytes(service.down)} down`,
          );
          replace(/** @type {Element} */ (card.children[2]), ...serviceActions(service, context) ? [] : []);
        },
      );
    }
    draw();
    return context.live.on("tick", draw);
  },
};
