"""The producer of the README: `python send.py`, in the folder of `photos.py`."""

from photos import app, resize

print(resize("a.jpg"))  # a plain call, here and now

job = resize.enqueue("a.jpg", width=64)
print(job)

count = app.enqueue_many(resize.bind(f"{n}.jpg") for n in range(1_000))
print(count, "more")

resize.options(delay=60, priority=5).enqueue("later.jpg")
