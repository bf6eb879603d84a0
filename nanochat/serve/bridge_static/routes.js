// The API page: every route of openapi.json as a row.
import { $, h } from "/shared/dom.js";
import { ask } from "./start.js";

export async function startRoutes() {
  const { paths } = await (await ask("/openapi.json")).json();
  const rows = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, route]) =>
      h("tr", {}, h("td", {}, h("code", {}, method.toUpperCase())), h("td", {}, h("code", {}, path)),
        h("td", {}, route.description ?? route.summary ?? ""))));
  const head = h("tr", {}, ...["Method", "Path", "What it does"].map((word) => h("th", { scope: "col" }, word)));
  $("routes").replaceChildren(h("table", {}, h("thead", {}, head), h("tbody", {}, ...rows)));
}
