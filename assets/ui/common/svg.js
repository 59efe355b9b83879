// Nodes of a drawing. Apart from text.js, which exported pages carry as well: they hold no address, not even a namespace.
import { attrs } from "./text.js";

export const drawn = (tag, pairs) => attrs(document.createElementNS("http://www.w3.org/2000/svg", tag), pairs);
