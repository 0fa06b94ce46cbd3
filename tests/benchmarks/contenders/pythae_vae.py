"""A VAE of networks given to pythae, trained by its `BaseTrainer`, without the progress bar that it shows by default.

Two contenders: its ``train_step``, which is one pass over a data set by torch's `DataLoader`, row by row, as its users
have it; and the step alone on a batch that is there, as ``train_step`` takes it: the model, its optimiser's step, the
loss read back. Under dynamic binarisation the data set draws each row as it is read, and the step alone each batch.
"""

import logging
import tempfile
from importlib.metadata import version

import torch
from contenders.torch_steps import once_in
from pythae.data.datasets import BaseDataset, DatasetOutput
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import CallbackHandler

ABOUT = f"pythae {version('pythae')}"


class Encoder(BaseEncoder):
    def __init__(self, by_hand):
        super().__init__()
        self.by_hand = by_hand

    def forward(self, x):
        mean, log_scale = self.by_hand.encoder(x).chunk(2, -1)
        return ModelOutput(embedding=mean, log_covariance=2 * log_scale)


class Decoder(BaseDecoder):
    def __init__(self, by_hand):
        super().__init__()
        self.by_hand = by_hand

    def forward(self, z):
        return ModelOutput(reconstruction=self.by_hand.decoder(z).sigmoid())


class Binarised(BaseDataset):
    """Grey pictures, each row binarised as it is read."""

    def __getitem__(self, index):
        return DatasetOutput(data=torch.bernoulli(self.data[index]), labels=self.labels[index])


def model_of(by_hand, latent_dim):
    """Return pythae's VAE of the networks of a VAE by hand, which has both in one module."""
    config = VAEConfig(input_dim=(784,), latent_dim=latent_dim, reconstruction_loss="bce")
    return VAE(config, Encoder(by_hand), Decoder(by_hand))


def steps_of(make, batches, latent_dim, steps):
    """Return the steps of both contenders; the first one's are done `steps` in one call."""
    fresh = hasattr(batches, "grey")
    rows = batches.grey[: steps * batches.size] if fresh else batches()["x"].repeat(steps, 1)
    data = (Binarised if fresh else BaseDataset)(rows.cpu(), torch.zeros(len(rows)))
    whole, alone = (_trainer(make(), data, batches.size, latent_dim, not rows.is_cuda) for _ in range(2))

    def step():
        output = alone.model(DatasetOutput(data=batches()["x"]), epoch=1, dataset_size=len(rows), uses_ddp=False)
        alone._optimizers_step(output)
        return output.loss.item()

    return {
        "pythae, its trainer": once_in(steps, lambda: whole.train_step(1)),
        "pythae, its step alone": step,
    }


def _trainer(by_hand, data, size, latent_dim, no_cuda):
    logging.disable(logging.INFO)  # it reports every step of its construction
    try:
        with tempfile.TemporaryDirectory() as folder:
            options = {"per_device_train_batch_size": size, "learning_rate": 1e-3, "no_cuda": no_cuda}
            config = BaseTrainerConfig(output_dir=folder, **options)
            trainer = BaseTrainer(model_of(by_hand, latent_dim), data, training_config=config)
    finally:
        logging.disable(logging.NOTSET)
    trainer.set_optimizer()
    trainer.callback_handler = CallbackHandler([], trainer.model)
    trainer.model.train()
    return trainer
