"""All settings, read from the environment once. What each variable means for operators: docs/settings.md.

Loud: outside DEBUG the required ones have no default. Beside a running `make up`, `var/stack.env` supplies what is not set,
so that `.venv/bin/python manage.py …` talks to the same servers.
"""

from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

import environ

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = BASE_DIR / "var"

env = environ.Env()
env.read_env(VAR_DIR / "stack.env")  # never overrides a variable that is set; written by runflow.stack while it runs

DEBUG = env.bool("DEBUG", default=False)
_DEBUG_ENCRYPTION_KEY = "aW5zZWN1cmUtZm9yLWRlYnVnZ2luZy1vbmx5LTAwMDA="
SECRET_KEY = env.str("SECRET_KEY", default="insecure-for-debugging-only") if DEBUG else env.str("SECRET_KEY")
DATABASE_URL = env.str("DATABASE_URL")
REDIS_URL = env.str("REDIS_URL")

# Absolute links (signed output URLs) start with this, whatever Host header a request carries.
PUBLIC_BASE_URL = env.str("PUBLIC_BASE_URL", default="http://127.0.0.1:8000").rstrip("/")
_public = urlsplit(PUBLIC_BASE_URL)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[_public.hostname or "127.0.0.1"])

# --- Applications ---------------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "accounts",
    "idempotency",
    "models_registry",
    "assets",
    "callbacks",
    "billing",
    "batches",
]

MIDDLEWARE = [
    "runflow.lib.middleware.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "runflow.lib.compression.GZipMiddleware",
    "runflow.lib.middleware.ErrorEnvelopeMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    # The caller must be known before the idempotency record is looked for (its scope is the organisation).
    "accounts.middleware.ApiKeyMiddleware",
    # Before idempotency, so that a 429 leaves no record.
    "accounts.middleware.RateLimitMiddleware",
    "idempotency.middleware.IdempotencyMiddleware",
]

ROOT_URLCONF = "runflow.urls"
WSGI_APPLICATION = "runflow.wsgi.application"
APPEND_SLASH = False  # the contract's routes have none, and a redirect would lose a POST body

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "runflow" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# --- Database -------------------------------------------------------------------------------------------------------

_database = env.db_url_config(DATABASE_URL)
_database["OPTIONS"] = {
    # Our statements read few rows, however the planner guesses: with 100,000 runs in the queue, compiling the claim took 13 ms
    # and running it 1 ms.
    "options": "-c jit=off",
    # Seconds. A server that is gone without closing its connections (a failover) is noticed within a minute. The kernel alone
    # takes a quarter of an hour for what was sent, and two hours where an answer is awaited: workers would be alive and idle.
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
    # What DATABASE_URL says of these counts.
    **_database.get("OPTIONS", {}),
}
DATABASES = {
    "default": {
        **_database,
        # Kept open between requests: a connection costs several times what a small request does.
        "CONN_MAX_AGE": env.int("CONN_MAX_AGE", default=60),
        "CONN_HEALTH_CHECKS": True,
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False

# --- HTTP -----------------------------------------------------------------------------------------------------------

# contract.md section 1: a larger body is 413. A hundred items with data: URIs beyond this belong into assets.
DATA_UPLOAD_MAX_MEMORY_SIZE = env.int("REQUEST_BODY_LIMIT_BYTES", default=10 * 1024 * 1024)

# Of an organisation that has no numbers of its own; 0: no limit, and as many at once as in a minute.
RATE_LIMIT_PER_MINUTE = env.int("RATE_LIMIT_PER_MINUTE", default=0)
RATE_LIMIT_BURST = env.int("RATE_LIMIT_BURST", default=0)

# Streams of events in one process, of all organisations and of each. A stream holds a thread: fewer than the web server has.
EVENT_STREAMS = env.int("EVENT_STREAMS", default=8)
EVENT_STREAMS_PER_ORGANIZATION = env.int("EVENT_STREAMS_PER_ORGANIZATION", default=4)
# Then it ends and the client comes again: so a thread comes back, and a revoked key has seen its last. Shorter than the 30 s
# that gunicorn gives requests when it stops.
EVENT_STREAM_DURATION = timedelta(seconds=env.float("EVENT_STREAM_SECONDS", default=25))

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["accounts.api.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["accounts.api.permissions.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["runflow.lib.api.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["runflow.lib.api.JSONParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "runflow.lib.api.AlwaysJSON",
    "EXCEPTION_HANDLER": "runflow.lib.api.exception_handler",
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_SCHEMA_CLASS": "runflow.lib.openapi.Declared",
}
# What views declare (runflow.lib.schemas) as an OpenAPI document, and the pages that show it from this server's own files.
SPECTACULAR_SETTINGS = {
    "DEFAULT_GENERATOR_CLASS": "runflow.lib.openapi.Generator",
    "OAS_VERSION": "3.1.0",
    "TITLE": "Runflow batch API",
    "VERSION": "0.1.0",
    # Where the document is read from, whatever the server is called.
    "SERVERS": [{"url": "/"}],
    "TAGS": [
        {"name": "Batches", "description": "Up to 100 inputs for one model in one request."},
        {"name": "Runs", "description": "One input each: a batch has one for each of its items."},
        {"name": "Models", "description": "What there is to run, what it takes, and what it costs."},
        {"name": "Callbacks", "description": "What was sent to a `callback_url`, and the secrets that sign it."},
        {"name": "Assets", "description": "Files of your own as inputs; signed URLs of outputs."},
        {"name": "Account", "description": "The key, its organisation, and what is left to spend."},
        {"name": "Server"},
    ],
    "SORT_OPERATIONS": False,  # in the order of the URL table
    "POSTPROCESSING_HOOKS": [],
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "defaultModelsExpandDepth": 0, "tryItOutEnabled": True},
    "REDOC_UI_SETTINGS": {
        "theme": {
            "typography": {"fontFamily": "system-ui, sans-serif", "headings": {"fontFamily": "system-ui, sans-serif"}}
        }
    },
}

_is_https = _public.scheme == "https"
SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", default=_is_https)
SECURE_HSTS_SECONDS = env.int("SECURE_HSTS_SECONDS", default=31_536_000 if _is_https else 0)
SECURE_HSTS_INCLUDE_SUBDOMAINS = env.bool("SECURE_HSTS_INCLUDE_SUBDOMAINS", default=_is_https)
SECURE_HSTS_PRELOAD = env.bool("SECURE_HSTS_PRELOAD", default=_is_https)
SESSION_COOKIE_SECURE = _is_https
CSRF_COOKIE_SECURE = _is_https
CSRF_TRUSTED_ORIGINS = [f"{_public.scheme}://{_public.netloc}"]
if env.bool("BEHIND_TLS_PROXY", default=False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# --- Files ----------------------------------------------------------------------------------------------------------

STATIC_URL = "/static/"
# The admin's files straight from the packages: no collectstatic step before the first run.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG

MEDIA_ROOT = Path(env.str("MEDIA_ROOT", default=str(VAR_DIR / "media")))
S3_BUCKET = env.str("S3_BUCKET", default="")
STORAGES = {
    "default": {
        "BACKEND": "storages.backends.s3.S3Storage",
        "OPTIONS": {
            "bucket_name": S3_BUCKET,
            "endpoint_url": env.str("S3_ENDPOINT_URL", default="") or None,
            "region_name": env.str("S3_REGION", default="") or None,
            "default_acl": None,
            "file_overwrite": False,
        },
    }
    if S3_BUCKET
    else {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": MEDIA_ROOT}},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
# A signed output URL lives this long; a later GET signs anew (contract.md section 4).
ASSET_URL_LIFETIME = timedelta(seconds=env.int("ASSET_URL_LIFETIME_SECONDS", default=3600))
# One media input may be this large; the same bound as an uploaded asset (contract.md section 8).
MEDIA_INPUT_LIMIT_BYTES = env.int("MEDIA_INPUT_LIMIT_BYTES", default=50 * 1024 * 1024)
# An upload that nobody confirmed is deleted after this long, its file too. A day, so that a client may repair its confirming.
ASSET_UPLOAD_RETENTION = timedelta(seconds=env.int("ASSET_UPLOAD_RETENTION_SECONDS", default=24 * 3600))

# --- Outgoing HTTP --------------------------------------------------------------------------------------------------

# Networks that customers' URLs may name although they are not public, e.g. "10.0.0.0/8,127.0.0.1/32".
OUTBOUND_ALLOW = tuple(ip_network(text) for text in env.list("OUTBOUND_ALLOW", default=[]))

# --- Callbacks ------------------------------------------------------------------------------------------------------

# Fernet keys: the first encrypts, all decrypt (docs/callbacks.md tells how to change them).
ENCRYPTION_KEYS = env.list("ENCRYPTION_KEYS", default=[_DEBUG_ENCRYPTION_KEY]) if DEBUG else env.list("ENCRYPTION_KEYS")
# contract.md section 7. Seconds before the second, third, … attempt; there is one attempt more than delays.
CALLBACK_RETRY_DELAYS = tuple(
    env.list(
        "CALLBACK_RETRY_DELAYS_SECONDS", cast=float, default=[5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]
    )
)
# The whole answer must have come within this.
CALLBACK_TIMEOUT = timedelta(seconds=env.float("CALLBACK_TIMEOUT_SECONDS", default=15))
# Nobody else sends a delivery for this long, so it must be longer than sending can take.
CALLBACK_LEASE = timedelta(seconds=env.float("CALLBACK_LEASE_SECONDS", default=60))
# Sent to one host at a time, over all workers; and by one task to all hosts.
CALLBACK_HOST_CONCURRENCY = env.int("CALLBACK_HOST_CONCURRENCY", default=4)
CALLBACK_CONCURRENCY = env.int("CALLBACK_CONCURRENCY", default=64)
# One delivery task claims this long, waits for what it has sent, and rings again. Not shorter than the timeout: two tasks in
# turn then leave no gap in which nobody claims.
CALLBACK_SLICE = CALLBACK_TIMEOUT
# Deliveries that are over are kept this long, with their attempts.
CALLBACK_RETENTION = timedelta(days=env.int("CALLBACK_RETENTION_DAYS", default=30))

# --- Idempotency ----------------------------------------------------------------------------------------------------

IDEMPOTENCY_RETENTION = timedelta(seconds=env.int("IDEMPOTENCY_RETENTION_SECONDS", default=24 * 3600))
# How long a twin waits for the first request before it answers 409 (contract.md section 3.2).
IDEMPOTENCY_WAIT = timedelta(milliseconds=env.int("IDEMPOTENCY_WAIT_MS", default=2000))

# --- Providers ------------------------------------------------------------------------------------------------------

# Adapters by the code that a provider row names. An operator's own is one line more; imported only where runs execute.
PROVIDER_ADAPTERS = {
    "comfyui": "providers.comfyui.adapter.ComfyAdapter",
    "http": "providers.http.adapter.build",
    "local": "providers.local.adapter.LocalAdapter",
}

# --- Engine ---------------------------------------------------------------------------------------------------------

# Long enough that a renewal can be missed twice, short enough that a dead worker's runs wait about a minute.
RUN_LEASE = timedelta(seconds=env.int("RUN_LEASE_SECONDS", default=60))
RUN_LEASE_RENEWAL = RUN_LEASE / 3
RUN_MAX_ATTEMPTS = env.int("RUN_MAX_ATTEMPTS", default=5)
# Seconds before the second, third, … attempt: quick enough for a blip, and about ten minutes in all for a restart.
RUN_RETRY_DELAYS = tuple(env.list("RUN_RETRY_DELAYS_SECONDS", cast=float, default=[2, 10, 60, 300]))
# One execute task works this long, then rings again, so that no task holds a worker and shutdown stays quick.
EXECUTE_SLICE = timedelta(seconds=env.float("EXECUTE_SLICE_SECONDS", default=5))
# One driver at a time speaks to a server; a dead one's place is free after this.
DRIVER_LEASE = timedelta(seconds=env.float("DRIVER_LEASE_SECONDS", default=30))
# A server that is down for longer loses its runs to others; a restart of ComfyUI takes less.
ENDPOINT_DOWN_GRACE = timedelta(seconds=env.float("ENDPOINT_DOWN_GRACE_SECONDS", default=30))
SWEEP_INTERVAL = timedelta(seconds=env.float("SWEEP_INTERVAL_SECONDS", default=5))
# What could be done and is not done for this long stands still, and is told of as such. A message lives for a minute, in which
# the sweep sends a dozen others; who is not found by then is not found.
STALLED_AFTER = timedelta(seconds=env.float("STALLED_AFTER_SECONDS", default=60))

# --- Celery ---------------------------------------------------------------------------------------------------------

CELERY_BROKER_URL = REDIS_URL
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "dispatch"
CELERY_TASK_ROUTES = {
    "batches.execute": {"queue": "dispatch"},
    "batches.drive": {"queue": "drive"},
    "batches.sweep": {"queue": "maintenance"},
    "callbacks.deliver": {"queue": "callbacks"},
    "callbacks.sweep": {"queue": "maintenance"},
    "callbacks.purge": {"queue": "maintenance"},
    "idempotency.purge": {"queue": "maintenance"},
    "assets.purge": {"queue": "maintenance"},
}
CELERY_TIMEZONE = "UTC"
# A doorbell lost with its worker is rung again by the sweep, so a message is done with when it is read. That makes Redis's
# visibility timeout, and what Celery does to late acknowledgements when a connection is lost, of no concern.
CELERY_TASK_ACKS_LATE = False
# A worker holds one message more than it works on, for each of its processes. Where tasks may take minutes that one should wait
# in the broker, for whoever is free: such a worker is started with --disable-prefetch (docs/operating.md). Not by setting: in
# a pool of threads a place that gets free is then seen up to a second later.
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
# A child that hangs for good (a local function in an endless loop) is killed and replaced; its runs were given to others long
# before. Longer than any set may take: claim_size times run_timeout. Processes only: the threads of the io worker wait for
# others no longer than their timeouts.
CELERY_TASK_TIME_LIMIT = env.float("TASK_TIME_LIMIT_SECONDS", default=2 * 3600)
# A child that has grown beyond this (KiB, at its peak) is replaced between two tasks, before the kernel kills one in a set.
CELERY_WORKER_MAX_MEMORY_PER_CHILD = env.int("WORKER_MAX_MEMORY_MIB", default=1024) * 1024
# A new child that has not reported within this is killed. Celery's 4 s are too few for a machine that is busy with pictures:
# it would kill and fork for ever.
CELERY_WORKER_PROC_ALIVE_TIMEOUT = 30.0
# SIGTERM waits for the running tasks to end, SIGQUIT so many seconds before it drops them.
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 10.0
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
# Workers and beat outlive a broker that is away, at their start and later, for however long. Celery alone gives up after 100
# attempts, three quarters of an hour, and exits.
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
# Publishing happens after a commit, in a customer's request: fail at once instead of retrying for seconds (kombu does, by
# its transport options), the sweep rings again.
CELERY_TASK_PUBLISH_RETRY = False
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "max_retries": 0,
    "interval_start": 0,
    # Seconds. What a broker that hangs costs that request. A worker asks for messages with a wait of 1 s, so not less than 2.
    "socket_connect_timeout": 1.0,
    "socket_timeout": 2.0,
    # A broker that is gone without closing its connections (a failover, a firewall that forgets) sends nothing that could be
    # read, not even an error. A worker that has heard nothing connects anew: within 21 s, where kombu's 25 made it a minute.
    "health_check_interval": 10,
}
CELERY_BEAT_SCHEDULE = {
    "sweep": {
        "task": "batches.sweep",
        "schedule": SWEEP_INTERVAL,
        # A sweep that waited longer than the next one is worth nothing.
        "options": {"expires": SWEEP_INTERVAL.total_seconds() * 2},
    },
    "sweep-callbacks": {
        "task": "callbacks.sweep",
        "schedule": SWEEP_INTERVAL,
        "options": {"expires": SWEEP_INTERVAL.total_seconds() * 2},
    },
    "purge-callbacks": {"task": "callbacks.purge", "schedule": timedelta(hours=1)},
    "purge-idempotency": {"task": "idempotency.purge", "schedule": timedelta(minutes=10)},
    "purge-assets": {"task": "assets.purge", "schedule": timedelta(hours=1)},
}

# --- Logging --------------------------------------------------------------------------------------------------------

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"request_id": {"()": "runflow.lib.request_id.RequestIdFilter"}},
    "formatters": {"line": {"format": "{asctime} {levelname} {name} [{request_id}] {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["request_id"]}},
    "root": {"handlers": ["console"], "level": env.str("LOG_LEVEL", default="INFO")},
    # It logs whole URLs, and signed ones open files.
    "loggers": {"httpx": {"level": "WARNING"}, "httpcore": {"level": "WARNING"}},
}
