# One image for every part and every command: `docker run turnout run create`.
# The interpreter is the one that requirements.txt was pinned with.
FROM python:3.11-slim-bookworm AS build

WORKDIR /source
RUN python -m venv /opt/turnout
ENV PATH=/opt/turnout/bin:$PATH

# What is pinned changes seldom: a layer of its own, kept while only the source changes.
COPY requirements.txt ./
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY pipeline pipeline
COPY stages stages
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation .
# The embedded broker's program comes without its execute bit, and whoever runs the image may not give it.
RUN find /opt/turnout -path '*/noida_db/noida-db' -exec chmod 0755 {} +


FROM python:3.11-slim-bookworm

COPY --from=build /opt/turnout /opt/turnout
ENV PATH=/opt/turnout/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TURNOUT_LOG=json

# Any other user will do as well: nothing in the image belongs to this one, and no part writes to a disk.
RUN useradd --uid 10001 --user-group --create-home turnout
USER 10001:10001
WORKDIR /home/turnout

ENTRYPOINT ["turnout"]
CMD ["--help"]
