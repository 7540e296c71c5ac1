/** What is open around the view: on a phone the sidebar covers it, on a wide screen it stands beside it. */

const wide = matchMedia("(min-width: 56rem)");

class Shell {
  isWide = $state(wide.matches);
  isSidebarOpen = $state(wide.matches);

  constructor() {
    wide.addEventListener("change", () => {
      this.isWide = wide.matches;
      this.isSidebarOpen = wide.matches;
    });
  }

  toggleSidebar(): void {
    this.isSidebarOpen = !this.isSidebarOpen;
  }

  /** After a choice in the sidebar: it makes way where it covers the view. */
  closeCovering(): void {
    if (!this.isWide) this.isSidebarOpen = false;
  }
}

export const shell = new Shell();
