// Line drawings on a 24x24 grid, built as DOM nodes because the page never parses HTML from text.

const PATHS = {
  menu: "M4 7h16M4 12h16M4 17h16",
  plus: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  sliders: "M4 7h8.500M17.500 7H20M4 17h2.500M11.500 17H20M15 4.500a2.500 2.500 0 1 0 0 5 2.500 2.500 0 0 0 0-5zM9 14.500a2.500 2.500 0 1 0 0 5 2.500 2.500 0 0 0 0-5z",
  send: "M12 19V5M6 11l6-6 6 6",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  check: "M5 12.5l4.5 4.5L19 7.5",
  redo: "M19 12a7 7 0 1 1-2.2-5.1M19 3.5V8h-4.5",
  pen: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  save: "M12 4v11M7 10.5l5 5 5-5M5 20h14",
  help: "M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4M12 17.5h.01",
  down: "M12 5v14M6 13l6 6 6-6",
  left: "M14.500 6l-6 6 6 6",
  right: "M9.500 6l6 6-6 6",
  calculator: "M6 3h12v18H6zM9 7h6M9 12h.01M12 12h.01M15 12h.01M9 16h.01M12 16h.01M15 16h.01",
  book: "M12 6c-2-1.6-4.5-2-8-2v14c3.500 0 6 .4 8 2 2-1.600 4.500-2 8-2V4c-3.500 0-6 .4-8 2zM12 6v14",
  letters: "M3 18l4.500-12L12 18M4.800 14h5.400M20 11v7M20 14.500a3 3 0 1 1-6 0 3 3 0 0 1 6 0",
  count: "M9 4L7 20M17 4l-2 16M4.500 9h16M3.500 15h16",
  person: "M12 11.500a3.750 3.750 0 1 0 0-7.500 3.750 3.750 0 0 0 0 7.500zM5 20c.8-3.600 3.600-5.500 7-5.500s6.200 1.900 7 5.500",
  alert: "M12 8v5M12 16.500h.01M12 3l9.500 17h-19z",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2.500v2M12 19.500v2M2.500 12h2M19.500 12h2M5.300 5.300l1.400 1.400M17.300 17.300l1.400 1.400M5.300 18.700l1.400-1.400M17.300 6.700l1.400-1.400",
  moon: "M20 14.500A8.500 8.500 0 0 1 9.500 4a8.500 8.500 0 1 0 10.500 10.500z",
  auto: "M12 3.500a8.500 8.500 0 1 0 0 17zM12 3.500a8.500 8.500 0 0 1 0 17",
};
const FILLED = {
  stop: "M7 7h10v10H7z",
  dots: "M5 11.500h1v1H5zM11.500 11.500h1v1h-1zM18 11.500h1v1h-1z",
};

const SVG = "http://www.w3.org/2000/svg";

export function icon(name, size = 20) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("width", size);
  svg.setAttribute("height", size);
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name] ?? FILLED[name]);
  if (FILLED[name]) path.setAttribute("class", "filled");
  svg.append(path);
  return svg;
}
