// Applies the chosen colours before the first paint. settings.js changes them later.
(() => {
  try {
    const theme = localStorage.getItem("nanochat:theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // storage is blocked: the system's colours apply
  }
})();
