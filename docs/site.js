// The search needs a server. Opened from the disk, the page does without it instead of complaining.
if (location.protocol === "file:") {
  window.Worker = class { postMessage() {} };
  document.querySelector("#rtd-search-form").hidden = true;
}
