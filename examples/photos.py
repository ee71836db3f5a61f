"""The app of the README: one task. Run its jobs with `dibs worker photos:app`."""

from dibs import App

app = App("sqlite:///photos.db")


@app.task(queue="photos", max_attempts=3)
def resize(path: str, width: int = 200) -> str:
    """Stand for the real work: print the name that the small photo would have, and return it."""
    small = path.replace(".jpg", f"-{width}.jpg")
    print(f"{path} -> {small}")
    return small
