"""From a handful of examples to a classifier: new classes, one more class later, and images that belong to none.

Run: python examples/fewshot_own_classes.py [MODEL.safetensors]

Without a model, a small one is first trained for half a minute on characters drawn with matplotlib's fonts.
"""

import sys

import numpy as np
import torch

from pauca import fewshot

if len(sys.argv) > 1:
    model = fewshot.MCRNet.load(sys.argv[1])
else:
    config = fewshot.ModelConfig(backbone="conv4-32", image_size=16, channels=1)
    training = fewshot.TrainConfig(
        steps=150,
        episodes_per_step=2,
        episode=fewshot.EpisodeConfig(way=5, shot=1, query=6),
        augmentation=fewshot.AugmentConfig(crop_padding=1, flip=False),
        schedule="cosine",
    )
    torch.manual_seed(0)
    model = fewshot.train(fewshot.MCRNet(config), training, fewshot.draw_glyphs("train", size=16)).model

# Characters that the model has never seen, 20 drawings of each: eight examples, twelve to ask for.
images = fewshot.draw_glyphs("test", size=16, classes=6)
drawings = images.images.unflatten(0, (6, 20))
names = np.array(images.class_names)

classifier = fewshot.FewShotClassifier(model, reject=0.1)
classifier.fit(drawings[:4, :8].flatten(0, 1), names[:4].repeat(8))
answers = classifier.predict(drawings[:4, 8:].flatten(0, 1))
right, rejected = (answers == names[:4].repeat(12)).mean(), (answers == "unknown").mean()
print(f"four classes: {right:.0%} right, {rejected:.0%} rejected")

strangers = classifier.predict(drawings[5])
print(f"a class that was never shown: {(strangers == 'unknown').mean():.0%} rejected")

classifier.partial_fit(drawings[4, :8], names[4:5].repeat(8))
answers = classifier.predict(drawings[4, 8:])
print(f"a fifth class, added: {(answers == names[4]).mean():.0%} right; now known: {', '.join(classifier.classes_)}")
