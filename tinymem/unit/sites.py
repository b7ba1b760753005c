"""Where a unit may sit: module paths by site name and layer, and their sizes."""

from collections.abc import Iterable, Sequence

from ..base.model import Linear, Model
from ..errors import RecipeError


def layer_of(path: str) -> int:
    return int(path.split(".")[1])


def sizes(model: Model, path: str) -> tuple[int, int]:
    """Widths going in and coming out at a site."""
    part = model.get_submodule(path)
    d = model.config.hidden_size
    return (part.in_features, part.out_features) if isinstance(part, Linear) else (d, d)


def linear_paths(model: Model) -> Iterable[tuple[str, str]]:
    """(our path, the family's own path) of every Linear in the layers; the head is not for LoRA."""
    for path, module in model.named_modules():
        if isinstance(module, Linear) and path.startswith("layers."):
            yield path, model.family.theirs(path) if model.family else path


def default_layer(model: Model) -> int:
    """Two thirds of the depth: 24 of 36, as in the paper for Qwen3-8B."""
    return model.config.num_layers * 2 // 3


def find_sites(
    model: Model, sites: Sequence[str], layers: Sequence[int] | None = None
) -> list[str]:
    """Module paths of the sites in the layers (default: `default_layer`).

    A Linear answers to the end of its path, in tinymem's names or its family's own: `q_proj`,
    `c_attn`, `attn.c_proj`. Raises RecipeError for one that matches nothing.
    """
    count = model.config.num_layers
    layers = [default_layer(model)] if layers is None else sorted(set(layers))
    for layer in layers:
        if not 0 <= layer < count:
            raise RecipeError(
                f"layer {layer} does not exist; the model has layers 0 to {count - 1}"
            )
    if not sites or not layers:
        raise RecipeError("name at least one site and one layer")
    if "mlp" in sites:
        if len(sites) > 1 or len(layers) > 1:
            raise RecipeError(
                "the site mlp stands alone, in one layer; several are for Linear sites"
            )
        return [f"layers.{layers[0]}.mlp"]
    found = {}
    for path, own in linear_paths(model):
        for site in sites:
            if layer_of(path) in layers and (
                f".{path}".endswith(f".{site}") or f".{own}".endswith(f".{site}")
            ):
                found.setdefault(site, []).append(path)
    for site in sites:
        if site not in found:
            names = dict.fromkeys(own.rpartition(".")[2] for _, own in linear_paths(model))
            raise RecipeError(f"no site {site!r} in this model; it has mlp, {', '.join(names)}")
    return list(dict.fromkeys(path for paths in found.values() for path in paths))


def plan_unit(
    model: Model, rank: int, sites: Sequence[str], layers: Sequence[int] | None = None
) -> dict[str, tuple[int, int]]:
    """Module path -> (d_in, d_out) of a unit's LoRAs. Needs the model's shapes only.

    Raises RecipeError for a site, layer or rank that the model does not have room for.
    """
    plan = {path: sizes(model, path) for path in find_sites(model, sites, layers)}
    for path, widths in plan.items():
        if not 1 <= rank <= min(widths):
            raise RecipeError(f"rank is {rank}; at {path} it can be 1 to {min(widths)}")
    return plan
