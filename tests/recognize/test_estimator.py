"""`EventClassifier`: things seen once or twice are recognized, whatever the recordings come as."""

import logging
import pickle
from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import clone

from pauca import events, fewshot
from pauca.errors import ConfigError, InputError
from pauca.recognize import EventClassifier, open_model

from .scenes import CAMERA, recording, recordings


@pytest.fixture(scope="module")
def fitted() -> EventClassifier:
    return EventClassifier().fit(*recordings(range(2)))


def test_new_recordings_of_known_things_are_recognized(fitted):
    asked, labels = recordings(range(2, 4))
    assert fitted.score(asked, labels) >= 0.85
    probabilities = fitted.predict_proba(asked)
    assert probabilities.shape == (8, 4)
    np.testing.assert_allclose(probabilities.sum(1), 1)


def test_probabilities_of_votes_are_about_true(fitted):
    """And not far below: of one recording each they once said 0.3 of what is always right."""
    asked, labels = recordings(range(2, 4))
    stated = fitted.predict_proba(asked).max(1).mean()
    assert stated == pytest.approx(fitted.score(asked, labels), abs=0.2)
    once = EventClassifier().fit(*recordings(range(1)))  # of which none can be left out
    assert 0.5 < once.predict_proba(asked).max(1).mean() < once.score(asked, labels) + 0.1


@pytest.mark.slow
def test_alignment_helps_where_motion_blurs():
    """At 600 degrees a second the sensor's own picture of a character is a cloud."""
    examples, names = recordings(range(2), 60.0)
    asked, labels = recordings(range(2, 8), 600.0)
    shares = [EventClassifier(align=align).fit(examples, names).score(asked, labels) for align in (False, True)]
    assert shares[1] > shares[0]


def test_paths_events_and_recordings_give_the_same_answer(fitted, tmp_path):
    asked = recording(1, 3)
    events.write(tmp_path / "what.npz", asked)
    answers = fitted.predict_proba([asked, asked.events, tmp_path / "what.npz", str(tmp_path / "what.npz")])
    np.testing.assert_allclose(answers, answers[:1].repeat(4, 0))


def test_one_recording_in_place_of_a_list_is_said(fitted, tmp_path):
    one = recording(1, 3)
    events.write(tmp_path / "what.npz", one)
    for given in (one, one.events, tmp_path / "what.npz", str(tmp_path / "what.npz")):
        with pytest.raises(InputError, match="put it into a list"):
            fitted.predict(given)
    for ask in (fitted.predict, fitted.predict_proba, fitted.calibrate):
        with pytest.raises(InputError, match="no recordings were given"):
            ask([])
    with pytest.raises(InputError, match="a list with one label for each"):
        EventClassifier().fit([one], "thing")


def test_things_are_added_one_recording_at_a_time():
    examples, labels = recordings(range(2))
    added = EventClassifier().partial_fit(examples[:4], labels[:4])
    for one, label in zip(examples[4:], labels[4:], strict=True):
        added.partial_fit([one], [label])
    assert added.classes_.tolist() == sorted(set(labels))
    whole = EventClassifier().fit(examples, labels)
    asked, _ = recordings(range(2, 3))
    np.testing.assert_allclose(added.predict_proba(asked), whole.predict_proba(asked), atol=1e-6)


def test_pictures_of_one_recording_are_no_independent_examples():
    """Three quarters of a second give three pictures each; later recordings are none of those before."""
    examples, labels = recordings(range(2))
    long = [_joined(*(recording(label, number) for number in (4, 5, 6))) for label in range(4)]
    classifier = EventClassifier(view_s=0.2).fit(long + examples[::2], np.concatenate([labels[::2], labels[::2]]))
    groups = classifier.classifier_._examples.groups
    assert len(classifier.classifier_.features_) > 12
    assert len(groups.numbers.unique()) == 8
    assert classifier.classifier_._learned.held_out.trials == pytest.approx(8)
    assert len(classifier.classifier_._learned.held_out) == 8  # they vote
    classifier.partial_fit(examples[1::2], labels[1::2])
    assert classifier.classifier_._learned.held_out.trials == pytest.approx(12)


@pytest.mark.parametrize("through_a_file", [False, True])
def test_recordings_after_a_thing_was_forgotten_are_none_of_those_before(through_a_file, tmp_path):
    examples, labels = recordings(range(2))
    classifier = EventClassifier().fit(examples, labels).remove_class("thing 0")
    if through_a_file:
        classifier.save(tmp_path / "things.safetensors")
        classifier = EventClassifier.load(tmp_path / "things.safetensors")
    classifier.partial_fit(examples[:2], labels[:2])
    assert len(classifier.classifier_._examples.groups.numbers.unique()) == 8
    assert classifier.rename_class("thing 0", "cross").classes_.tolist() == ["cross", *sorted(set(labels))[1:]]


def test_what_is_learned_anew_forgets_the_sensor_of_before(fitted, caplog):
    examples, labels = recordings(range(1))
    larger = [events.Recording(events.Events(*_columns(one.events), (64, 48))) for one in examples]
    classifier = EventClassifier().fit(examples, labels)
    with caplog.at_level(logging.WARNING):
        classifier.fit(larger, labels)
    assert "sensor" not in caplog.text


def _joined(*parts: events.Recording) -> events.Recording:
    streams = [replace(p.events, t_us=p.events.t_us + 260_000 * i) for i, p in enumerate(parts)]
    columns = (np.concatenate(column) for column in zip(*map(_columns, streams), strict=True))
    return events.Recording(events.Events(*columns, streams[0].size), None, "joined")


def _columns(stream: events.Events) -> list[np.ndarray]:
    return [getattr(stream, name) for name in ("t_us", "x", "y", "p")]


def test_an_unknown_thing_is_called_unknown():
    examples, labels = recordings(range(4))
    known = labels != "thing 1"
    learned = [one for one, is_known in zip(examples, known, strict=True) if is_known]
    classifier = EventClassifier(reject=0.1).fit(learned, labels[known])
    strangers = [recording(1, number) for number in range(4)]
    assert (classifier.predict(strangers) == "unknown").sum() >= 2
    assert (classifier.set_params(unknown_label="?").predict(strangers) == "?").sum() >= 2
    assert (classifier.set_params(reject=None).predict(strangers) != "?").all()
    further = [one for one, is_known in zip(*recordings(range(4, 7)), strict=True) if is_known != "thing 1"]
    nearest = classifier.set_params(reject=0.3, unknown_label=None).calibrate(further).classifier_.threshold_
    assert np.mean(classifier.answer([classifier.pictures(one) for one in further]).distances > nearest) == (
        pytest.approx(0.3, abs=0.1)
    )
    assert classifier.expected_accuracy().examples == 12


def test_any_model_takes_the_place_of_the_default(fitted, tmp_path):
    config = fewshot.ModelConfig("conv4-32", image_size=16, channels=3)
    fewshot.MCRNet(config).save(tmp_path / "model.safetensors")
    examples, labels = recordings(range(1))
    classifier = EventClassifier(tmp_path / "model.safetensors").fit(examples, labels)
    assert classifier.pictures(examples[0])[0].pixels.shape == (16, 16)
    assert classifier.predict(examples[:1]).shape == (1,)
    assert open_model("pixels").config.backbone == "pixels"
    with pytest.raises(ConfigError, match="no such model"):
        EventClassifier("no such model").fit(examples, labels)


def test_it_is_an_estimator_that_is_cloned_and_pickled(fitted):
    asked, _ = recordings(range(2, 3))
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_allclose(copy.predict_proba(asked), fitted.predict_proba(asked))
    assert clone(EventClassifier(views=3, camera=CAMERA)).get_params()["views"] == 3


def test_a_label_that_occurs_once_is_enough_unless_unknown_things_shall_be_told():
    examples, labels = recordings(range(1))
    assert EventClassifier().fit(examples, labels).score(examples, labels) == 1
    with pytest.raises(InputError, match="reject needs two recordings in at least two classes"):
        EventClassifier(reject=0.1).fit(examples, labels)
    with pytest.raises(InputError, match="leaving out recordings, which takes two in at least two classes"):
        EventClassifier().fit(examples, labels).expected_accuracy()


def test_what_is_said_of_examples_is_said_of_recordings(tmp_path):
    examples, labels = recordings(range(2))
    with pytest.warns(fewshot.FewExamplesWarning, match="of known recordings unknown takes 99 recordings") as said:
        classifier = EventClassifier(reject=0.01).fit(examples, labels)
    assert said[0].filename == __file__
    assert str(classifier.expected_accuracy()).endswith("(8 recordings left out)")
    assert "% of further recordings right" in str(classifier.expected_accuracy())
    classifier.set_params(reject=None).save(tmp_path / "things.safetensors")
    loaded = EventClassifier.load(tmp_path / "things.safetensors", "cpu")
    assert str(loaded.expected_accuracy()) == str(classifier.expected_accuracy())
    assert loaded.reject is None
    with pytest.raises(InputError, match="all recordings have one label"):
        EventClassifier().fit(examples[:1], labels[:1])


def test_copies_are_counted_in_recordings_and_not_in_their_pictures():
    examples, labels = recordings(range(1))
    classifier = EventClassifier(view_s=0.08)
    assert len(classifier.pictures(examples[0])) > 1
    with pytest.warns(fewshot.CopiedExamplesWarning, match="^1 of 5 recordings is a copy of another"):
        classifier.fit([*examples, examples[0]], [*labels, labels[0]])
    with pytest.warns(fewshot.CopiedExamplesWarning, match="^1 of 5 recordings is the same as one of another class"):
        classifier.fit([*examples, examples[0]], [*labels, labels[1]])


def test_a_fit_that_is_refused_leaves_what_was_learned(fitted):
    asked, _ = recordings(range(2, 3))
    learner = pickle.loads(pickle.dumps(fitted))
    for given, labels in (([asked[0]] * 2, ["a", "a"]), ([], []), (["no such file"], ["a"])):
        with pytest.raises(InputError):
            learner.fit(given, labels)
    np.testing.assert_array_equal(learner.predict(asked), fitted.predict(asked))


def test_another_sensor_is_said_and_still_answered(fitted, caplog):
    stream = recording(0, 2).events
    larger = events.Events(*_columns(stream), (64, 48))
    with caplog.at_level(logging.WARNING):
        assert fitted.predict([events.Recording(larger, name="cup")]) == ["thing 0"]
    assert "cup: its sensor has 64 x 48 pixels, that of the first recording 34 x 34" in caplog.text


@pytest.mark.parametrize(
    ("take", "labels", "said"),
    [
        (slice(2), ["a"], "2 recordings but 1 labels"),
        (slice(0), [], "no recordings"),
        (slice(2), ["a", "a"], "one class is not enough"),
    ],
)
def test_examples_that_cannot_be_learned_from_are_refused(take, labels, said):
    examples, _ = recordings(range(1))
    with pytest.raises(InputError, match=said):
        EventClassifier().fit(examples[take], labels)
