/**
 * The actions that a service offers to those who may operate: a slot of the view of services.
 */

/**
 * @param {import("../types.js").Row} service Its row, as it is now.
 * @param {import("../types.js").Context} context
 * @returns {import("../dom.js").Children} What is put into its card; it is made once for each state
 *   of the service.
 */
export function serviceActions(service, context) {
  return context.mayOperate && service.sid ? [] : [];
}
