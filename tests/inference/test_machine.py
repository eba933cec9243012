"""What the program runs on."""

from echostream_plugin.inference import machine


def test_the_processor_has_a_name_and_the_process_a_size(monkeypatch):
    there = machine.Path("/proc/self/status").is_file()
    assert machine.device_name() and (machine.resident_mb() > 10) is there
    told = {"cpuinfo": "processor : 0\nmodel name : A: B\n", "status": "VmSize: 9 kB\nVmRSS:    2048 kB\n"}
    monkeypatch.setattr(machine.Path, "read_text", lambda path, **_: told[path.name])
    assert (machine.device_name(), machine.resident_mb()) == ("A: B", 2.0)


def test_a_system_without_proc_is_named_otherwise(monkeypatch):
    def read(path, **_):
        raise FileNotFoundError(path)

    monkeypatch.setattr(machine.Path, "read_text", read)
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    monkeypatch.setattr(machine.platform, "machine", lambda: "arm64")
    assert (machine.device_name(), machine.resident_mb()) == ("arm64", 0.0)
