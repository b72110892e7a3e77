"""The streaming half of the engine `grid` of `arima`: orders (0,1,1) and (1,1,1), by numba.

Let w be the first differences, (1 - phi B) w = (1 + theta B) e, and u = w / (1 + theta B), an AR(1) driven by e:

    u_t = w_t - theta u_{t-1},  e_t = u_t - phi u_{t-1},  u_0 ~ N(0, sigma^2 / (1 - phi^2)), independent of e_1, e_2 ...

Let u start at 0, and z = -theta. Starting it at u_0 instead adds u_0 z^(t-1) (z - phi) to e_t. So, with the sums

    A = sum u_t^2, B = sum u_t u_{t-1}, C = sum u_{t-1}^2, D = sum u_t z^(t-1), V = sum u_{t-1} z^(t-1),

    Q = A - 2 phi B + phi^2 C,   R = (z - phi) (D - phi V),   K = 1 - phi^2 + (z - phi)^2 sum z^(2 (t-1)),

the best u_0 is -R / K and the exact likelihood, variance concentrated out, is

    -2 log L = n log((Q - R^2 / K) / n) + log(K / (1 - phi^2)) + constant.

One filter per theta therefore serves every phi, and running sums serve every origin. Theta lies on a grid of 96
points, dense towards -1, where noisy shares have it; between grid points everything is interpolated through three.

The window moves: sums are kept per pane of a tenth of the history (half of it above 2,048 series), and a pane begins
at a fixed row number. Once the
first row has left the window, the likelihood is that of the window's rows given those before it,
n log(sum of e_t^2 / n).

Axis letters: S rows, N series, G grid points, W panes, C the five sums.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ._arma import CACHE
from ._series import FloatArray, IntArray

PANES = 10
WIDE, WIDE_PANES = 2048, 2  # above so many series memory counts: 128 x 128 series take 0.3 GB
LEAST_ROWS = 16
MAX_PHI = 0.995
GRID = 96


def _grid() -> FloatArray:
    """z from 0.9998 to -0.9; steps of 1 + theta grow smoothly from 14 % of itself to 0.045."""
    gain = np.geomspace(0.0002, 1.9, 4000)
    index = np.log(gain) / 0.14 + gain / 0.045
    even: FloatArray = np.interp(np.linspace(index[0], index[-1], GRID), index, gain)
    return 1.0 - even


Z_G = _grid()


class Stream:
    """Running sums over the last ``history`` rows (up to a pane more) of N series."""

    def __init__(self, series: int, history: int) -> None:
        grid = len(Z_G)
        self.rows = 0
        self.panes = PANES if series <= WIDE else WIDE_PANES
        self.pane_rows = max(1, history // self.panes)
        self.last_N, self.move_N = np.zeros(series), np.zeros(series)
        self.u_NG, self.before_NG = np.zeros((series, grid)), np.zeros((series, grid))
        self.power_G = np.ones(grid)
        self.sum_WNCG = np.zeros((self.panes + 1, series, 5, grid))
        self.start_N2G = np.zeros((series, 2, grid))  # D and V of the panes that have left the window

    def push(self, value_SN: FloatArray) -> None:
        """Take in rows; the first row ever only sets the level."""
        if len(value_SN) and not self.rows:
            self.last_N, self.rows, value_SN = value_SN[0].copy(), 1, value_SN[1:]
        start = 0
        while start < len(value_SN):
            pane, row = divmod(self.rows - 1, self.pane_rows)
            sum_NCG = self.sum_WNCG[pane % (self.panes + 1)]
            if row == 0:
                self.start_N2G += sum_NCG[:, 3:]
                sum_NCG[:] = 0.0
            stop = min(len(value_SN), start + self.pane_rows - row)
            part_SN = np.ascontiguousarray(value_SN[start:stop])
            _advance(part_SN, Z_G, self.power_G, self.last_N, self.move_N, self.u_NG, self.before_NG, sum_NCG)
            # far below what a sum of u can notice; left alone, powers would end as slow denormal numbers
            self.power_G = np.where(np.abs(self.power_G) < 1e-60, 0.0, self.power_G * Z_G ** (stop - start))
            self.rows += stop - start
            start = stop

    def fit(self, autoregressive: bool) -> FloatArray:
        """[N, 4]: theta, phi, u_t and u_{t-1}; NaN for a series that is constant or that has too few rows."""
        if self.rows < LEAST_ROWS:
            return np.full((len(self.last_N), 4), np.nan)
        moves = self.rows - 1
        left = max(0, (moves - 1) // self.pane_rows - self.panes) * self.pane_rows  # rows before the window
        power_2G = Z_G ** np.array([[2 * left], [2 * moves]])
        square_2G = np.stack([power_2G[0] - power_2G[1], 1.0 - power_2G[1]]) / (1.0 - Z_G**2)
        state = (self.u_NG, self.before_NG, self.power_G)
        fit_N4 = _fit(self.sum_WNCG.sum(axis=0), self.start_N2G, square_2G, *state, Z_G, left, moves, autoregressive)
        return np.asarray(fit_N4)

    def forecast(self, autoregressive: bool, edges: IntArray) -> FloatArray:
        """[B, N] block means of the forecast path; NaN where there is no fit."""
        return np.ascontiguousarray(_paths(self.fit(autoregressive), self.last_N, self.move_N, edges).T)


def warm_up() -> None:
    """Compile everything, on nothing that needs computing."""
    stream = Stream(1, PANES)
    stream.push(np.zeros((2 * LEAST_ROWS, 1)))
    for autoregressive in (False, True):
        stream.forecast(autoregressive, np.array([1, 2]))


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def _advance(
    value_SN: FloatArray,
    z_G: FloatArray,
    power_G: FloatArray,
    last_N: FloatArray,
    move_N: FloatArray,
    u_NG: FloatArray,
    before_NG: FloatArray,
    sum_NCG: FloatArray,
) -> None:
    """Filter rows for every theta and add to the sums, in place; ``power_G`` is z^(t-1) of the first row."""
    g_G = np.empty_like(power_G)
    for n in range(value_SN.shape[1]):
        for g in range(len(g_G)):
            g_G[g] = power_G[g]
        a, b, c, d, v = sum_NCG[n, 0], sum_NCG[n, 1], sum_NCG[n, 2], sum_NCG[n, 3], sum_NCG[n, 4]
        u, before = u_NG[n], before_NG[n]
        for s in range(value_SN.shape[0]):
            move = value_SN[s, n] - last_N[n]
            last_N[n], move_N[n] = value_SN[s, n], move
            for g in range(z_G.shape[0]):
                old = u[g]
                new = move + z_G[g] * old
                a[g] += new * new
                b[g] += new * old
                c[g] += old * old
                d[g] += new * g_G[g]
                v[g] += old * g_G[g]
                g_G[g] *= z_G[g]
                before[g] = old
                u[g] = new


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def _start(sums: FloatArray, early: FloatArray, square: FloatArray, z: float, phi: float) -> tuple[float, float, float]:
    """u_0 = -R / K, the window's part of R, and K; ``square`` is sum z^(2 (t-1)) over the window and over all rows."""
    pull = z - phi
    k = 1.0 - phi * phi + pull * pull * square[1]
    r_window = pull * (sums[3] - phi * sums[4])
    return -(r_window + pull * (early[0] - phi * early[1])) / k, r_window, k


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def _criterion(
    sums: FloatArray, early: FloatArray, square: FloatArray, z: float, phi: float, left: int, moves: int
) -> float:
    """-2 log L up to a constant; ``sums`` are A, B, C, D, V of the window, ``early`` D and V before it."""
    u0, r_window, k = _start(sums, early, square, z, phi)
    q = sums[0] - 2.0 * phi * sums[1] + phi * phi * sums[2]
    rows = moves - left
    if left == 0:
        return float(rows * np.log((q + u0 * r_window) / rows) + np.log(k / (1.0 - phi * phi)))
    return float(rows * np.log((q + 2.0 * u0 * r_window + (u0 * (z - phi)) ** 2 * square[0]) / rows))


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def _start_phi(sums: FloatArray, early: FloatArray, square: FloatArray, z: float) -> float:
    """phi by least squares, u_0 and phi in turn: with u_t + u_0 z^t in place of u_t the best phi is B / C."""
    phi = 0.0
    for _ in range(3):
        u0 = _start(sums, early, square, z, phi)[0]
        b = sums[1] + u0 * (sums[3] + z * sums[4]) + u0 * u0 * z * square[0]
        c = sums[2] + 2.0 * u0 * sums[4] + u0 * u0 * square[0]
        phi = min(max(b / c, -MAX_PHI), MAX_PHI) if c > 0.0 else 0.0
    return phi


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def _best_phi(sums: FloatArray, early: FloatArray, square: FloatArray, z: float, left: int, moves: int) -> float:
    """Return the phi of the least criterion, by parabolas through three points around the least-squares value."""
    phi, width = _start_phi(sums, early, square, z), 0.05
    for _ in range(4):
        phi = min(max(phi, -MAX_PHI + width), MAX_PHI - width)
        low = _criterion(sums, early, square, z, phi - width, left, moves)
        mid = _criterion(sums, early, square, z, phi, left, moves)
        high = _criterion(sums, early, square, z, phi + width, left, moves)
        phi += width * _vertex(low, mid, high)
        width *= 0.3
    return float(phi)


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def _vertex(low: float, mid: float, high: float) -> float:
    """Where a parabola through (-1, low), (0, mid), (1, high) is least on [-1, 1]."""
    bend = low - 2.0 * mid + high
    x = 0.5 * (low - high) / bend if bend > 0.0 else np.sign(low - high)
    return float(min(max(x, -1.0), 1.0))


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def _fit(
    sum_NCG: FloatArray,
    early_N2G: FloatArray,
    square_2G: FloatArray,
    u_NG: FloatArray,
    before_NG: FloatArray,
    power_G: FloatArray,
    z_G: FloatArray,
    left: int,
    moves: int,
    autoregressive: bool,
) -> FloatArray:
    """[N, 4]: theta, phi, u_t and u_{t-1} at the best point, NaN for a constant series."""
    N, G = u_NG.shape
    fit_N4 = np.full((N, 4), np.nan)
    cost_G, cost_3, point_34 = np.empty(G), np.empty(3), np.empty((3, 4))
    for n in range(N):
        if not sum_NCG[n, 0, G - 1] > 0.0:
            continue
        for g in range(G):
            sums, early, square = sum_NCG[n, :, g], early_N2G[n, :, g], square_2G[:, g]
            phi = _start_phi(sums, early, square, z_G[g]) if autoregressive else 0.0
            cost_G[g] = _criterion(sums, early, square, z_G[g], phi, left, moves)
        mid = 1
        for g in range(2, G - 1):
            mid = g if cost_G[g] < cost_G[mid] else mid
        for k in range(3):
            g = mid - 1 + k
            sums, early, square = sum_NCG[n, :, g], early_N2G[n, :, g], square_2G[:, g]
            phi = _best_phi(sums, early, square, z_G[g], left, moves) if autoregressive else 0.0
            cost_3[k] = _criterion(sums, early, square, z_G[g], phi, left, moves)
            late = _start(sums, early, square, z_G[g], phi)[0] * power_G[g]  # u_0 z^(t-1)
            point_34[k, 0], point_34[k, 1] = -z_G[g], phi
            point_34[k, 2], point_34[k, 3] = u_NG[n, g] + late * z_G[g], before_NG[n, g] + late
        x = _vertex(cost_3[0], cost_3[1], cost_3[2])
        for i in range(4):
            fit_N4[n, i] = (
                0.5 * x * ((x - 1.0) * point_34[0, i] + (x + 1.0) * point_34[2, i]) + (1.0 - x * x) * point_34[1, i]
            )
    return fit_N4


@njit(error_model="numpy", cache=CACHE)  # type: ignore[untyped-decorator]  # numba ships no types
def _paths(fit_N4: FloatArray, last_N: FloatArray, move_N: FloatArray, edges: IntArray) -> FloatArray:
    """[N, B] block means of y_n + sum_{j=1..h} phi^(j-1) s, with s = phi w_n + theta e_n."""
    out_NB = np.full((len(last_N), len(edges)), np.nan)
    for n in range(len(last_N)):
        theta, phi, u, before = fit_N4[n, 0], fit_N4[n, 1], fit_N4[n, 2], fit_N4[n, 3]
        step = phi * move_N[n] + theta * (u - phi * before)
        start, behind = 0, 0.0
        for block in range(len(edges)):
            stop = edges[block]
            ahead = step / (1.0 - phi) * (stop - phi * (1.0 - phi**stop) / (1.0 - phi))
            out_NB[n, block] = last_N[n] + (ahead - behind) / (stop - start)
            start, behind = stop, ahead
    return out_NB
