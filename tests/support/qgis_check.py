"""Open a run in QGIS and print what it made of it, as JSON. Runs under the Python that has QGIS, as a program."""

import json
import os
import sys
from pathlib import Path

os.environ["QT_QPA_PLATFORM"] = "offscreen"
from qgis.core import (
    QgsApplication,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor

BACKGROUND = QColor(0, 0, 200)


def rendered(layers, extent):
    settings = QgsMapSettings()
    settings.setLayers(layers)
    settings.setBackgroundColor(BACKGROUND)
    settings.setOutputSize(QSize(200, 200))
    settings.setDestinationCrs(layers[0].crs())
    settings.setExtent(extent)
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    return job.renderedImage()


def share(image, color):
    pixels = [image.pixelColor(x, y) for x in range(0, 200, 4) for y in range(0, 200, 4)]
    return sum(pixel == color for pixel in pixels) / len(pixels)


folder = Path(sys.argv[1])
application = QgsApplication([], False)
application.initQgis()
project = QgsProject.instance()
found = {"read": project.read(str(folder / "ussfc.qgs")), "layers": []}
for node in project.layerTreeRoot().findLayers():
    layer = node.layer()
    found["layers"].append([node.name(), bool(layer and layer.isValid()), node.isVisible()])
change = QgsRasterLayer(str(folder / "change.tif"), "change")
probability = QgsRasterLayer(str(folder / "probability.tif"), "probability")
polygons = QgsVectorLayer(str(folder / "changes.gpkg"), "changes")
found["renderers"] = [change.renderer().type(), probability.renderer().type(), polygons.renderer().type()]
picture = rendered([change], change.extent())
found["transparent"] = share(picture, BACKGROUND)
found["coloured"] = share(picture, QColor(255, 45, 149))
sys.stdout.write(json.dumps(found) + "\n")
sys.stdout.flush()
# The libraries of QGIS may fail as they are taken down.
os._exit(0)
