"""The routes beside the conversation, put together."""

from samovar.app.access import Access
from samovar.app.account_routes import AccountRoutes
from samovar.app.app import AppTable
from samovar.app.backup import BACKUP_ROUTES
from samovar.app.dashboard import Dashboard
from samovar.app.export import EXPORT_ROUTES
from samovar.app.file_routes import FileRoutes
from samovar.app.import_routes import IMPORT_ROUTES
from samovar.app.key_routes import KeyRoutes
from samovar.app.passwords import Passwords
from samovar.app.preset_routes import PRESET_ROUTES
from samovar.app.prices import PRICE_ROUTES
from samovar.serving.keys import KeyFile


def more_routes(access: Access, key_file: KeyFile, dashboard: Dashboard, passwords: Passwords | None = None) -> AppTable:
    """Accounts, keys, files, exports, imports, backups, presets, prices and the dashboard, whose life is its owner's affair."""
    accounts = AccountRoutes(access=access, passwords=passwords or Passwords())
    return (
        *accounts.table(),
        *KeyRoutes(key_file).table(),
        *FileRoutes().table(),
        *BACKUP_ROUTES,
        *EXPORT_ROUTES,
        *IMPORT_ROUTES,
        *PRESET_ROUTES,
        *PRICE_ROUTES,
        *dashboard.table(),
    )
