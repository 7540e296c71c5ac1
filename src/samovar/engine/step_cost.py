"""What a decoding step costs by the number of its rows, learnt from the steps that were run."""

from dataclasses import dataclass

_PRIOR_SLOPE = 0.14  # of a one-row step for each further row: Q4 kernels with AVX-512 on two cores, up to 8 rows
_PRIOR_WEIGHT = 20.0  # in squared rows
_FADE = 0.98
_OUTLIER = 2.0  # times the expected; another process had the cores, or a page was first touched


@dataclass(slots=True)
class StepCost:
    """A line fitted to (rows, seconds) by least squares, older steps counting less, its slope drawn towards the usual one."""

    one_row_s: float = 0.0
    row_s: float = 0.0
    _n: float = 0.0
    _x: float = 0.0
    _xx: float = 0.0
    _y: float = 0.0
    _xy: float = 0.0

    @property
    def is_known(self) -> bool:
        """A step was observed."""
        return self._n > 0

    def seconds(self, n_rows: int) -> float:
        """What a step of `n_rows` is expected to take."""
        return self.one_row_s + (n_rows - 1) * self.row_s

    def observe(self, n_rows: int, seconds: float) -> None:
        """A step of `n_rows` took `seconds`."""
        if self.is_known:
            seconds = min(seconds, _OUTLIER * self.seconds(n_rows))
        x = n_rows - 1
        self._n = self._n * _FADE + 1.0
        self._x = self._x * _FADE + x
        self._xx = self._xx * _FADE + x * x
        self._y = self._y * _FADE + seconds
        self._xy = self._xy * _FADE + x * seconds
        # minimise sum (y - a - b x)^2 + weight (b - slope a)^2
        aa = self._n + _PRIOR_WEIGHT * _PRIOR_SLOPE**2
        ab = self._x - _PRIOR_WEIGHT * _PRIOR_SLOPE
        bb = self._xx + _PRIOR_WEIGHT
        determinant = aa * bb - ab * ab
        self.one_row_s = max((self._y * bb - self._xy * ab) / determinant, 1e-9)
        self.row_s = max((self._xy * aa - self._y * ab) / determinant, 0.0)
