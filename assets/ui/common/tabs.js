// Another tab of the page. What stands on it comes when it is first opened, and what is meant for it waits until then.
const LATEST = 10_000; // ms
async function openTab(name, part) {
  const tab = document.querySelector(`#tabs [role=tab][data-tab-id=${name}]`), end = performance.now() + LATEST;
  tab?.click();
  while (tab && !document.querySelector(part) && performance.now() < end) await new Promise((done) => setTimeout(done, 20));
}
export const openCompare = () => openTab("compare", "#compare");
export const openTrain = () => openTab("train", "#training");
