"""The calls of graphite-web that are answered (graphite_settings.ROOT_URLCONF): what a dashboard and a person need.

Not /render/local, which unpickles what it is sent.
"""

from types import SimpleNamespace

from django.http import HttpRequest, HttpResponse
from django.urls import include, re_path
from graphite.metrics import views as metrics
from graphite.render.views import renderView

# How somebody wants to be shown the tree is asked of his account; there are none.
metrics.getProfile = lambda request: SimpleNamespace(advancedUI=False)


def handler500(request: HttpRequest) -> HttpResponse:
    """In place of a page with links to what is not here."""
    return HttpResponse("Something went wrong, the log tells what", status=500, content_type="text/plain")


urlpatterns = [
    re_path(r"^render/?$", renderView),
    re_path(r"^metrics", include("graphite.metrics.urls")),
    re_path(r"^version", include("graphite.version.urls")),
]
