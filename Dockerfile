# EchoStream's live server on a CPU:
#   docker build -t echostream .
#   docker run --rm -p 127.0.0.1:8080:8080 echostream
FROM python:3.11-slim-bookworm
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends libsndfile1 g++ \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home echostream
WORKDIR /opt/echostream
COPY requirements-build.txt constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt -r requirements-build.txt
COPY . .
RUN pip install --no-cache-dir --no-build-isolation -c constraints.txt ".[serve]"
USER echostream
EXPOSE 8080
STOPSIGNAL SIGINT
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health')"]
ENTRYPOINT ["echostream", "serve", "--host", "0.0.0.0"]
