// Names and tab stops that the theme's elements lack; it adds some of them while the page is open.
function complete() {
  document.querySelector(".md-search").ariaLabel = "Search";
  for (const nav of document.querySelectorAll(".md-nav[aria-labelledby]")) {
    nav.ariaLabel = nav.querySelector(".md-nav__title").textContent.trim();
    nav.removeAttribute("aria-labelledby");
  }
  for (const nav of document.querySelectorAll(".md-code__nav:not([role])")) nav.role = "none";
  for (const box of document.querySelectorAll("pre > code, .md-typeset__scrollwrap, .equation"))
    if (box.tabIndex < 0 && box.scrollWidth > box.clientWidth) box.tabIndex = 0;
}
complete();
new MutationObserver(complete).observe(document.body, { childList: true, subtree: true, attributeFilter: ["tabindex"] });
addEventListener("resize", complete);
