"""train-reader: check -> fit -> calibrate -> export -> evaluate -> register."""

from kfp import dsl

from . import steps


@dsl.pipeline(name="train-reader", description="Fine-tune, calibrate, export, evaluate and register the span reader.")
def train_reader(
    data: str,
    mlflow_uri: str,
    held_out: str = "",
    base: str = "quarry-base",
    epochs: float = 2.0,
    learning_rate: float = 3e-5,
    max_seconds: float = 0.0,
    min_answered: float = 0.87,
    alias: str = "champion",
    seed: int = 17,
) -> str:
    dataset = steps.check_dataset(data=data, held_out=held_out).outputs["dataset"]
    model = steps.fit_reader(dataset=dataset, base=base, epochs=epochs, learning_rate=learning_rate, max_seconds=max_seconds, seed=seed).outputs["model"]
    calibration = steps.calibrate_reader(dataset=dataset, model=model, min_answered=min_answered).outputs["calibration"]
    artefact = steps.export_reader(dataset=dataset, model=model, calibration=calibration, base=base).outputs["artefact"]
    evaluation = steps.evaluate_reader(dataset=dataset, artefact=artefact).outputs["evaluation"]
    registered = steps.register_reader(
        dataset=dataset, model=model, calibration=calibration, artefact=artefact, evaluation=evaluation, mlflow_uri=mlflow_uri, alias=alias
    )
    return registered.outputs["Output"]
