// Local times on hover, and what goes with the slider. Everything can be read without this file.
(function () {
  "use strict";
  function each(root, what, does) { Array.prototype.forEach.call(root.querySelectorAll(what), does); }
  function local(root) {
    each(root, "time[datetime]:not([data-local])", function (time) {
      var moment = new Date(time.dateTime);
      if (!isNaN(moment)) {
        time.title = [time.title, moment.toLocaleString() + " local"].filter(Boolean).join(" · ");
        time.dataset.local = "";
      }
    });
  }
  function times(slider) { return slider.dataset.times.split(" ").map(Number); }
  function chosen(slider) { // the newest snapshot at the slider's instant
    return times(slider).reduce(function (found, ms, n) { return ms <= slider.value ? n : found; }, 0);
  }
  function tell(slider) { // its instant in words, its snapshot on the axis and in the table
    var text = new Date(Number(slider.value)).toISOString().replace("T", " ").slice(0, 19) + "Z", n = chosen(slider);
    each(slider.form, "output", function (output) { output.textContent = text; });
    slider.setAttribute("aria-valuetext", text);
    each(document, ".axis circle", function (mark, i) { mark.classList.toggle("chosen", i === n); });
    each(document, "table tr:has(input[name=a])", function (row, i) { row.classList.toggle("chosen", i === n); });
  }
  function step(event) { // by arrow keys from snapshot to snapshot
    var slider = event.target, by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (slider.id !== "instant" || !by) { return; }
    var all = times(slider), n = chosen(slider);
    var next = all[by < 0 && slider.value > all[n] ? n : Math.min(Math.max(n + by, 0), all.length - 1)];
    event.preventDefault();
    slider.value = next;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  }
  document.addEventListener("DOMContentLoaded", function () { local(document); });
  document.addEventListener("htmx:afterSwap", function (event) { // before anybody sees the new state
    local(document);
    var slider = document.getElementById("instant"), state = document.querySelector("#state [data-ms]");
    var byLink = event.detail.requestConfig.elt.matches("a"); // else it is as the slider has it, or about to be
    if (slider && state && byLink && chosen(slider) !== state.dataset.n - slider.dataset.first) {
      slider.value = state.dataset.ms;
      tell(slider);
    }
  });
  document.addEventListener("keydown", step);
  document.addEventListener("input", function (event) {
    if (event.target.id === "instant") {
      htmx.trigger("#state", "htmx:abort"); // what was asked for before must not move it back
      tell(event.target);
    }
  });
})();
