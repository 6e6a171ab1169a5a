"use strict";
// What scrolls sideways by itself can be reached with the keyboard, and each part of the page that a
// screen reader lists has a name of its own.
document.addEventListener("DOMContentLoaded", () => {
  const scrolling = document.querySelectorAll("pre, .table-wrapper, .equation, .cell_output .output");
  const mark = () => scrolling.forEach((part) => {
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
  });
  mark();
  addEventListener("resize", mark);
  document.querySelector("aside.sidebar-drawer")?.setAttribute("aria-label", "Pages");
  document.querySelector("aside.toc-drawer")?.setAttribute("aria-label", "On this page");
});
