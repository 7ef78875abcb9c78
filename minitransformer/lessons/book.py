"""The eight lessons, and where an exercise is found by its number."""

from importlib import import_module

from minitransformer.errors import InputError
from minitransformer.lessons.exercise import Exercise, Lesson

LESSONS = (
    Lesson(1, "one_head", "One head, by hand"),
    Lesson(2, "many_heads", "Many heads, and every shape"),
    Lesson(3, "masks_and_positions", "Who may look at whom: masks and positions"),
    Lesson(4, "the_block", "The block and the residual stream"),
    Lesson(5, "real_weights", "Load real weights, and prove it"),
    Lesson(6, "heads_with_a_job", "Heads with a job"),
    Lesson(7, "two_sequences", "Two sequences: cross-attention and generating"),
    Lesson(8, "fine_tuning", "Fine-tune a model, and ask whether attention explains it"),
)


def exercises(lesson: Lesson) -> tuple[Exercise, ...]:
    """The exercises of a lesson, in order."""
    found: tuple[Exercise, ...] = import_module(f"minitransformer.lessons.{lesson.name}").EXERCISES
    return found


def lesson_of(number: object) -> Lesson:
    """The lesson with this number. An InputError says which there are."""
    for lesson in LESSONS:
        if str(number) == str(lesson.number):
            return lesson
    raise InputError(f"lesson: got {number!r:.40}, expected a number from 1 to {len(LESSONS)}")


def exercise_of(number: object) -> Exercise:
    """The exercise with this number. An InputError says which there are."""
    first = str(number).partition(".")[0]
    if not isinstance(number, str) or first not in {str(lesson.number) for lesson in LESSONS}:
        raise InputError(f'exercise: got {number!r:.40}, expected a number as a text, "1.1" for the first')
    there = {exercise.number: exercise for exercise in exercises(lesson_of(first))}
    if number not in there:
        raise InputError(f"exercise: got {number!r:.40}, expected one of lesson {first}: {', '.join(there)}")
    return there[number]
