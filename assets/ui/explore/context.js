// The view that the modules of this folder draw into.
import { openView } from "../common/view.js";

export const { root, ui, props, server, trigger, hear, ask, sayError, tooltip, listenToKeys } = openView(window.rmxViews["explore/token_view"]);
