"""Where a unit may sit: from site names and layer numbers to module paths and their widths.

All of this needs the shapes of a model only, not its weights.
"""

from collections.abc import Iterator, Sequence

from ..base.model import Linear, Model
from ..errors import RecipeError


def default_layer(model: Model) -> int:
    """Two thirds of the depth: layer 24 of 36, as in the paper for Qwen3-8B."""
    return model.config.num_layers * 2 // 3


def layer_of(path: str) -> int:
    """layers.3.mlp -> 3."""
    return int(path.split(".")[1])


def linear_paths(model: Model) -> Iterator[tuple[str, str]]:
    """(our path, the family's own path) of every Linear in the layers; the head is left out."""
    for path, module in model.named_modules():
        if isinstance(module, Linear) and path.startswith("layers."):
            yield path, family_path(model, path)


def family_path(model: Model, path: str) -> str:
    """The family's own path of a module."""
    return model.family.theirs(path) if model.family else path


def ends_with(path: str, name: str) -> bool:
    """Does the path end with this name, whole: attn.c_proj with c_proj, but not with proj?"""
    return f".{path}".endswith(f".{name}")


def find_sites(
    model: Model, sites: Sequence[str], layers: Sequence[int] | None = None
) -> list[str]:
    """Module paths of the sites in the layers (default: `default_layer`).

    A Linear is named by the end of its path, in tinymem's names or in its family's own: `q_proj`,
    `c_attn`, `attn.c_proj`. Raises RecipeError for a name that matches nothing.
    """
    count = model.config.num_layers
    layers = [default_layer(model)] if layers is None else sorted(set(layers))
    for layer in set(layers) - set(range(count)):
        raise RecipeError(f"there is no layer {layer}; the model has layers 0 to {count - 1}")
    if not sites or not layers:
        raise RecipeError("name at least one site and one layer")
    if "mlp" in sites:
        if len(sites) > 1 or len(layers) > 1:
            raise RecipeError("the site mlp stands alone, in one layer; name Linear sites instead")
        return [f"layers.{layers[0]}.mlp"]
    found: dict[str, list[str]] = {}
    for path, own in linear_paths(model):
        for site in sites:
            if layer_of(path) in layers and (ends_with(path, site) or ends_with(own, site)):
                found.setdefault(site, []).append(path)
    for site in sites:
        if site not in found:
            names = dict.fromkeys(own.rpartition(".")[2] for _, own in linear_paths(model))
            raise RecipeError(f"no site {site!r} in this model; it has mlp, {', '.join(names)}")
    return list(dict.fromkeys(path for paths in found.values() for path in paths))


def widths(model: Model, path: str) -> tuple[int, int]:
    """(d_in, d_out): the numbers that go into a site and come out of it, for each token."""
    part, d = model.get_submodule(path), model.config.hidden_size
    return (part.in_features, part.out_features) if isinstance(part, Linear) else (d, d)


def unit_shapes(
    model: Model, rank: int, sites: Sequence[str], layers: Sequence[int] | None = None
) -> dict[str, tuple[int, int]]:
    """Module path -> (d_in, d_out) of each of a unit's LoRAs.

    Raises RecipeError for a site, a layer or a rank that the model does not have room for.
    """
    shapes = {path: widths(model, path) for path in find_sites(model, sites, layers)}
    for path, sides in shapes.items():
        if not 1 <= rank <= min(sides):
            raise RecipeError(f"rank is {rank}; at {path} it can be 1 to {min(sides)}")
    return shapes
