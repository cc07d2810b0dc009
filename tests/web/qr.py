"""Reads QR codes from the picture of a part of a page, as a phone's camera would."""

import io

import zxingcpp
from PIL import Image
from playwright.sync_api import Locator, Page


def read_qr(shown: Locator | Page) -> list[str]:
    picture = Image.open(io.BytesIO(shown.screenshot())).convert("L")
    return [code.text for code in zxingcpp.read_barcodes(picture)]
