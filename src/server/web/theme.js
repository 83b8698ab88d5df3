// Light or dark, before anything is painted: what the user chose here, else what the system says.
(function () {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => { try { return localStorage.getItem("nano-vllm.theme"); } catch { return null; } };
  const apply = () => {
    document.documentElement.dataset.theme = chosen() || (system.matches ? "dark" : "light");
    dispatchEvent(new Event("themechange"));
  };
  system.addEventListener("change", apply);
  window.toggleTheme = () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      // The system's own choice is not stored, so that the page goes on following it.
      if ((next === "dark") === system.matches) localStorage.removeItem("nano-vllm.theme");
      else localStorage.setItem("nano-vllm.theme", next);
      apply();
    } catch { document.documentElement.dataset.theme = next; }
  };
  apply();
})();
