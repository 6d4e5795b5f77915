from compress.plan.turns import Burst, in_turns


class Recorder:
    """Takes as many milliseconds as calls came before."""

    def __init__(self, name, log):
        self.name, self.log, self.calls = name, log, 0

    def time_ms(self, batch, calls):
        self.log.append((self.name, batch, calls))
        self.calls += calls
        return [float(call) for call in range(self.calls - calls, self.calls)]


def test_contenders_take_turns_and_warm_ups_do_not_count():
    log = []
    contenders = {"a": Recorder("a", log), "b": Recorder("b", log)}

    times = in_turns(contenders, 8, 4, Burst(counted=2, warm_up=1))

    assert log == [("a", 8, 3), ("b", 8, 3)] * 2
    assert times == {"a": [1, 2, 4, 5], "b": [1, 2, 4, 5]}


def test_calls_are_rounded_up_to_whole_bursts():
    assert len(in_turns({"a": Recorder("a", [])}, 1, 5, Burst(counted=2, warm_up=0))["a"]) == 6
