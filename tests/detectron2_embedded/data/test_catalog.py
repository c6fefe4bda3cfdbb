import pytest
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog


@pytest.fixture
def name():
    yield "catalog_test_ships"
    DatasetCatalog.pop("catalog_test_ships", None)
    MetadataCatalog.pop("catalog_test_ships", None)


def test_a_registered_function_is_called_on_each_get(name):
    calls = []
    DatasetCatalog.register(name, lambda: calls.append(1) or [{"image_id": 1}])
    assert not calls
    assert DatasetCatalog.get(name) == [{"image_id": 1}]
    DatasetCatalog.get(name)
    assert len(calls) == 2
    assert name in DatasetCatalog.list()
    DatasetCatalog.remove(name)
    assert name not in DatasetCatalog


def test_an_unknown_name_suggests_near_ones(name):
    DatasetCatalog.register(name, list)
    with pytest.raises(KeyError, match=name):
        DatasetCatalog.get(name + "s")


def test_what_is_registered_must_be_a_function(name):
    with pytest.raises(AssertionError, match="function"):
        DatasetCatalog.register(name, [{"image_id": 1}])


def test_metadata_is_made_on_first_use_and_kept(name):
    metadata = MetadataCatalog.get(name)
    assert metadata.set(thing_classes=["ship"]) is metadata
    assert MetadataCatalog.get(name).thing_classes == ["ship"]
    assert metadata.name == name
    assert metadata.get("json_file", "none") == "none"
    assert metadata.as_dict() == {"name": name, "thing_classes": ["ship"]}


def test_a_metadata_value_cannot_change(name):
    metadata = MetadataCatalog.get(name).set(thing_classes=["ship"])
    metadata.thing_classes = ["ship"]
    with pytest.raises(AssertionError, match="thing_classes"):
        metadata.thing_classes = ["car"]
    assert metadata.thing_classes == ["ship"]


def test_an_absent_value_names_itself_and_what_there_is():
    metadata = Metadata(name="x", json_file="a.json")
    with pytest.raises(AttributeError, match=r"thing_classes.*json_file"):
        _ = metadata.thing_classes
    assert not hasattr(metadata, "thing_classes")


def test_coco_is_registered_under_its_usual_names():
    assert {"coco_2017_train", "coco_2017_val"} <= set(DatasetCatalog.list())
    metadata = MetadataCatalog.get("coco_2017_val")
    assert len(metadata.thing_classes) == 80
    assert metadata.thing_dataset_id_to_contiguous_id[90] == 79
    assert metadata.thing_classes[metadata.thing_dataset_id_to_contiguous_id[18]] == "dog"
