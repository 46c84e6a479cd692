"""The same command twice at once."""

from chaos_run import EVERY


def test_a_second_start_is_refused_and_does_the_first_no_harm(run, left_alone):
    run.slowly(0.2, first=EVERY)
    process = run.start_until_step(EVERY)
    second = run.ganline(*run.command)
    assert second.code == 2 and "is being trained already" in second.err.splitlines()[-1], second.err
    run.disturbances.forget()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    run.ends_as(left_alone())
