// A slide that is higher than the screen is made smaller until it fits.
window.addEventListener("load", () => {
  const fit = () => {
    const slide = Reveal.getCurrentSlide(), room = Reveal.getConfig().height - 40;
    slide.style.zoom = 1;
    if (slide.scrollHeight > room) { slide.style.zoom = room/slide.scrollHeight; Reveal.layout(); }
  };
  Reveal.on("slidechanged", fit);
  if (Reveal.isReady()) fit(); else Reveal.on("ready", fit);
});
