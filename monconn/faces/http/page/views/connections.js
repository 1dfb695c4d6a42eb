/** The live connections: filter, order, selection, and what is done with the selected ones. */
import { get } from "../api.js";
import { h, replace } from "../dom.js";
import { notifyProblem } from "../dialogs.js";
import { Table } from "../table.js";

/** @type {import("../types.js").View} */
export default {
  title: "Connections",
  async mount(root, params, context) {
    const { columns } = await context.columns("connections");
    const table = new Table({
      label: "Connections",
      columns,
      key: (row) => row.id,
      fetch: (offset, limit, sort, signal) =>
        get("connections", { filter: params.filter, sort, offset, limit, max_age: 1 }, { signal }),
    });
    replace(root, h("h1", null, "Connections"), table.element);
    const refresh = () => table.refresh();
    table.onError = notifyProblem;
    refresh();
    const off = context.live.on("tick", refresh);
    return () => {
      off();
      table.destroy();
    };
  },
};
