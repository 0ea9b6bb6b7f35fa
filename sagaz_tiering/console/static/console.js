// Local times on hover, and the time beside the slider. Everything can be read without this file.
(function () {
  "use strict";
  function local(root) {
    root.querySelectorAll("time[datetime]").forEach(function (each) {
      var moment = new Date(each.dateTime);
      if (!isNaN(moment)) {
        each.title = [each.title, moment.toLocaleString() + " local"].filter(Boolean).join(" · ");
      }
    });
  }
  function slider(event) {
    var input = event.target;
    if (input.matches && input.matches("input[type=range][data-times]")) {
      var times = input.dataset.times.split(" ");
      var out = input.form && input.form.querySelector("output");
      if (out && times[input.value]) {
        out.textContent = times[input.value].replace("T", " ").slice(0, 19) + "Z";
        input.setAttribute("aria-valuetext", out.textContent);
      }
    }
  }
  document.addEventListener("DOMContentLoaded", function () { local(document); });
  document.addEventListener("htmx:afterSwap", function (event) { local(event.target); });
  document.addEventListener("input", slider);
})();
