"""The names by which programs read the parameters of an ``nn.LSTM``, where an ERU has a true counterpart."""

import re
from typing import Any

from torch import nn


class LSTMNames(nn.Module):
    """``weight_hh_l0``, ``all_weights`` and the like, for a module that holds its cells in ``cells``.

    The names are for reading: the parameters' own names, in ``state_dict()`` and ``named_parameters()``, are those of
    the cells (``cells.l0.weight_hh``).

    Example:
        >>> from eru import ERU
        >>> rnn = ERU(10, 20)
        >>> rnn.weight_hh_l0 is rnn.cells["l0"].weight_hh
        True
    """

    cells: nn.ModuleDict

    def __getattr__(self, name: str) -> Any:
        """``all_weights``, or a parameter under the name that it has in ``nn.LSTM``, where it has one."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "all_weights":
                return self._in_torchs_order()
            found = re.fullmatch(r"(?:weight|bias)_(?:ih|hh|hr)_(l\d+(?:_reverse)?)", name)
            if found is None or found[1] not in self.cells:
                raise
        parameter = self._counterparts(found[1]).get(name)
        if parameter is None:
            raise AttributeError(
                f"{name}: this ERU has no such parameter. Its input map is cells[{found[1]!r}].input_transform, and "
                "its one bias is called bias_ih; ERU.from_lstm(lstm) keeps all of an LSTM's parameters"
            )
        return parameter

    def _in_torchs_order(self) -> list[list[nn.Parameter]]:
        """Parameters of each layer and direction; programs expect W_ih to come first, so there must be one."""
        if not all(type(cell.input_transform) is nn.Linear for cell in self.cells.values()):
            raise AttributeError("all_weights: an EESP has no weight_ih; take parameters() or named_parameters()")
        return [list(self._counterparts(key).values()) for key in self.cells]

    @property
    def _all_weights(self) -> list[list[str]]:
        return [list(self._counterparts(key)) for key in self.cells]

    def _counterparts(self, key: str) -> dict[str, nn.Parameter]:
        """Parameters of one cell by their names in ``nn.LSTM``, in that class's order."""
        cell: Any = self.cells[key]
        found = {"weight_hh": cell.weight_hh, "bias_ih": cell.bias, "weight_hr": cell.weight_hr}
        if type(cell.input_transform) is nn.Linear:
            found["weight_ih"] = cell.input_transform.weight
            if cell.input_transform.bias is not None:
                found |= {"bias_ih": cell.input_transform.bias, "bias_hh": cell.bias}
        order = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        return {f"{name}_{key}": found[name] for name in order if found.get(name) is not None}

    def flatten_parameters(self) -> None:
        """Nothing to do: kept so that code written for ``nn.LSTM`` runs unchanged."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        if f"{prefix}weight_ih_l0" in state_dict:
            messages = others[-1]
            messages.append(f"{prefix}weight_ih_l0 is of an nn.LSTM, whose weights ERU.from_lstm(lstm) takes over")
        super()._load_from_state_dict(state_dict, prefix, *others)
