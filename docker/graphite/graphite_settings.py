"""graphite-web as a reader only: it draws graphs and lists metrics. No accounts, no database, nothing to change.

Read by graphite.settings (GRAPHITE_SETTINGS_MODULE). The environment says where carbon is and keeps its files.
"""

import os
import secrets

from graphite.app_settings import *  # noqa: F403

GRAPHITE_WEB_APP_SETTINGS_LOADED = True  # what follows is not overwritten by the line above

STORAGE_DIR = os.environ["GRAPHITE_STORAGE_DIR"]
WHISPER_DIR = f"{STORAGE_DIR}/whisper"
STANDARD_DIRS = [WHISPER_DIR]  # also while carbon has not made it yet
# Points that carbon has not written yet are asked for.
CARBONLINK_HOSTS = [os.environ["CARBONLINK"]]

ROOT_URLCONF = "graphite_urls"
MIDDLEWARE = ("graphite.middleware.LogExceptionsMiddleware", "django.middleware.gzip.GZipMiddleware")
DATABASES: dict[str, object] = {}
LOGIN_URL = "/"
SECRET_KEY = secrets.token_hex()  # signs nothing: there are no sessions
ENFORCE_INPUT_VALIDATION = True

USE_WORKER_POOL = False  # it is for several stores, and wants shared memory
FIND_CACHE_DURATION = 0  # a new metric shows at once
DEFAULT_CACHE_DURATION = 0
# To stdout, and only what went wrong.
LOG_FILE_INFO = LOG_FILE_EXCEPTION = LOG_FILE_CACHE = LOG_FILE_RENDERING = "-"
LOG_INFO_PERFORMANCE = False
