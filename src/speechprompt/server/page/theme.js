// Light, dark, or as the system says; kept for the next visit where the browser allows it.

const NEXT = { system: "light", light: "dark", dark: "system" };
const SIGN = { system: "◐", light: "○", dark: "●" };

function stored() {
  try {
    return localStorage.getItem("theme") ?? "system";
  } catch {
    return "system";
  }
}

function apply(button, theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  button.textContent = SIGN[theme];
  button.setAttribute("aria-label", `Colours: ${theme}. Change to ${NEXT[theme]}`);
  button.title = `Colours: ${theme}`;
}

export function startTheme(button) {
  let theme = stored() in NEXT ? stored() : "system";
  apply(button, theme);
  button.addEventListener("click", () => {
    theme = NEXT[theme];
    apply(button, theme);
    try {
      localStorage.setItem("theme", theme);
    } catch {
      // a browser that keeps nothing still changes for this visit
    }
  });
}
