# The example MCP server, and `perdure` on the command line: docs/docker.md. To run your own server in it, copy yours
# where examples/ is copied.
FROM python:3.13.13-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv --without-pip /opt/perdure
WORKDIR /build
COPY requirements/server.txt requirements/
RUN pip --python /opt/perdure/bin/python install --require-hashes -r requirements/server.txt
COPY pyproject.toml README.md LICENSE ./
COPY sql/ sql/
COPY src/ src/
RUN pip --python /opt/perdure/bin/python install --no-deps --no-build-isolation .

FROM python:3.13.13-slim-bookworm
# The same number as whoever owns the volume's files, whatever is built later.
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent perdure && install -d -o perdure -g perdure -m 0700 /data
COPY --from=build /opt/perdure/ /opt/perdure/
COPY examples/ /opt/examples/
ENV PATH=/opt/perdure/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PERDURE_DATA_DIR=/data
USER perdure
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=20s --retries=6 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
CMD ["python", "/opt/examples/http_server.py", "--host", "0.0.0.0", "--port", "8080"]
