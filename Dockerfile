# Two stages: installed where there is a compiler, and run where there is none and no pip, as an ordinary user.
FROM python:3.11-slim AS build
RUN python -m venv --without-pip /opt/sagaz-tiering
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY sagaz_tiering ./sagaz_tiering
RUN pip --python /opt/sagaz-tiering/bin/python install --no-cache-dir -c constraints.txt ".[encryption]"

FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home sagaz-tiering
COPY --from=build /opt/sagaz-tiering /opt/sagaz-tiering
ENV PATH=/opt/sagaz-tiering/bin:$PATH
USER 10001
# Probes and metrics are on daemon.port (9464); set daemon.host to 0.0.0.0 in the configuration to reach them. Where the
# configuration names another port, the health check needs it too (--health-cmd, or healthcheck in a compose file).
EXPOSE 9464
HEALTHCHECK --interval=20s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9464/livez', timeout=4)"]
ENTRYPOINT ["sagaz-tiering"]
CMD ["run", "--config", "/etc/sagaz-tiering/tiering.yaml"]
