/**
 * Types that several modules share; nothing here runs.
 *
 * @typedef {Record<string, any>} Row A row of a listing, as JSON.
 *
 * @typedef {object} Column One column of a listing, as `GET /api/v1/columns` says.
 * @property {string} name
 * @property {string} title
 * @property {string} unit
 * @property {string} [help]
 * @property {number} [importance] 0 for what never leaves a table; more leaves earlier.
 * @property {"left" | "right"} [align]
 * @property {boolean} [nullable]
 * @property {string} [order] The name to sort by; empty if the server cannot.
 * @property {number} [width] Characters that it needs.
 * @property {number} [max_width] Characters that it can make use of.
 * @property {number} [wanted_width] Characters for which less important columns leave.
 * @property {boolean} [usual] Whether it is in the table unless somebody chooses.
 * @property {boolean} [for_some] Whether it leaves a usual table in which no row has a value.
 * @property {boolean} [descending] Whether the greatest comes first, unless it is the other way round.
 *
 * @typedef {object} FilterKey One key of the filter language in a listing.
 * @property {string} name
 * @property {string} [kind]
 * @property {string} [help]
 * @property {string[]} [choices]
 *
 * @typedef {object} ListingColumns
 * @property {Column[]} columns
 * @property {FilterKey[]} keys Of the filter language.
 * @property {boolean} [facts] Whether names of facts are keys, too.
 *
 * @typedef {object} Session Who is logged in, and what the server has.
 * @property {string} name
 * @property {"view" | "operate"} role
 * @property {string} kind
 * @property {string} version
 * @property {string} served
 * @property {Record<string, boolean>} has
 *
 * @typedef {object} Tick What comes once a second.
 * @property {string} at ISO 8601.
 * @property {number} sequence
 * @property {Row[]} services
 * @property {number} connections
 *
 * @typedef {object} ConnectionState Whether the server can be reached.
 * @property {"connecting" | "live" | "gone" | "logged_out"} state
 * @property {number} since Milliseconds of this machine's wall clock.
 * @property {string} text Why, for people.
 *
 * @typedef {Record<string, string>} Params What the address says: its path's parts and its query.
 *
 * @typedef {object} Context What a view is given.
 * @property {Session} session
 * @property {boolean} mayOperate Whether actions are allowed: else they are not even offered.
 * @property {import("./live.js").Live} live
 * @property {(listing: string) => Promise<ListingColumns>} columns
 * @property {(path: string, params?: Record<string, string | undefined>, options?: {replace?: boolean}) => void} navigate
 *   Goes to `path` ("connections/42"), with a query; empty and undefined parameters are left out.
 * @property {(path: string, params?: Record<string, string | undefined>) => string} link
 *   The address of that, for `href`.
 * @property {(text: string) => void} announce Says a text to screen readers.
 * @property {(title: string) => void} title Sets the title of the window.
 *
 * @typedef {(() => void) | {unmount: () => void, update?: (params: Params) => void | Promise<void>}} Mounted
 *   With `update`, a change of the query leaves the view mounted and calls that.
 *
 * @typedef {object} View
 * @property {string} title
 * @property {(root: HTMLElement, params: Params, context: Context) => Mounted | Promise<Mounted>} mount
 */
export {};
