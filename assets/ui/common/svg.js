// Nodes of a drawing. Exported pages carry text.js but not this: they hold no address, not even a namespace.
import { attrs } from "./text.js";

export const drawn = (tag, pairs) => attrs(document.createElementNS("http://www.w3.org/2000/svg", tag), pairs);
