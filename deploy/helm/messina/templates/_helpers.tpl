{{- /* It always contains "messina": it is the job's name, too, and alerts ask for that. The pods of a StatefulSet have a label NAME-HASH, of ten
digits, and a label's value has 63 characters at most. */ -}}
{{- define "messina.name" -}}
{{- $name := .Release.Name | trunc 52 | trimSuffix "-" }}
{{- if contains "messina" $name }}{{ $name }}{{ else }}{{ $name | trunc 44 | trimSuffix "-" }}-messina{{ end -}}
{{- end }}

{{- /* Of the configuration's ConfigMap. Another configuration has another name, for a container that starts again reads what is there by then. */ -}}
{{- define "messina.config" -}}
{{ include "messina.name" . }}-{{ .Values.config | sha256sum | trunc 10 }}
{{- end }}

{{- /* How many processes there are at least. */ -}}
{{- define "messina.least" -}}
{{ if .Values.keda.enabled }}{{ min .Values.keda.minReplicas .Values.keda.partitions }}{{ else }}{{ .Values.replicas }}{{ end }}
{{- end }}

{{- /* How long a new pod is ready before the next old one goes. Values of an older chart, as `--reuse-values` keeps them, do not say; 0 is an answer. */ -}}
{{- define "messina.minReady" -}}
{{ kindIs "invalid" .Values.minReadySeconds | ternary 100 .Values.minReadySeconds }}
{{- end }}

{{- define "messina.selector" -}}
app.kubernetes.io/name: messina
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "messina.labels" -}}
{{ include "messina.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "messina.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* Where a pod may run, and with what right: of all pods of the chart. */ -}}
{{- define "messina.placement" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "messina.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: { drop: [ALL] }
{{- end }}

{{- define "messina.podSecurity" -}}
runAsNonRoot: true
{{- with kindIs "invalid" .Values.podSecurity | ternary (dict "runAsUser" 65532 "runAsGroup" 65532 "fsGroup" 65532) .Values.podSecurity }}
{{ toYaml . }}
{{- end }}
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "messina.pod" -}}
metadata:
  labels:
    {{- include "messina.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with .Values.podAnnotations }}
  annotations: {{ toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "messina.name" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with include "messina.placement" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  securityContext: {{ include "messina.podSecurity" . | nindent 4 }}
  containers:
    - name: messina
      image: {{ include "messina.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [run, --config, /etc/messina/messina.toml]
      env:
        - { name: MESSINA__HTTP__LISTEN, value: {{ .Values.listen | default "0.0.0.0:9090" | quote }} }
        {{- if .Values.staticMembership }}
        - { name: POD_NAME, valueFrom: { fieldRef: { fieldPath: metadata.name } } }
        {{- range .Values.staticMembership }}
        - { name: MESSINA__PIPELINES__{{ . | upper }}__SOURCE__INSTANCE_ID, value: "$(POD_NAME)" }
        {{- end }}
        {{- end }}
        {{- with .Values.env }}{{ toYaml . | nindent 8 }}{{ end }}
      ports: [{ name: http, containerPort: 9090, protocol: TCP }]
      # It may wait long for a service at the start, alive and not ready: that is no failure.
      startupProbe: { httpGet: { path: /livez, port: http }, periodSeconds: 2, failureThreshold: 30 }
      livenessProbe: { httpGet: { path: /livez, port: http }, periodSeconds: 15, timeoutSeconds: 5, failureThreshold: 4 }
      readinessProbe: { httpGet: { path: /readyz, port: http }, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 2 }
      resources: {{ toYaml .Values.resources | nindent 8 }}
      securityContext: {{ include "messina.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - { name: config, mountPath: /etc/messina/messina.toml, subPath: messina.toml, readOnly: true }
        {{- if .Values.secrets }}
        - { name: secrets, mountPath: /etc/messina/secrets, readOnly: true }
        {{- end }}
        {{- range $index, $secret := .Values.certificates }}
        - { name: certificate-{{ $index }}, mountPath: /etc/messina/tls/{{ $secret }}, readOnly: true }
        {{- end }}
        - { name: tmp, mountPath: /tmp }
  volumes:
    - { name: config, configMap: { name: {{ include "messina.config" . }} } }
    {{- with .Values.secrets }}
    - name: secrets
      projected:
        defaultMode: 288 # 0440
        sources:
          {{- range . }}
          - secret: {{ kindIs "string" . | ternary (dict "name" .) . | toJson }}
          {{- end }}
    {{- end }}
    {{- range $index, $secret := .Values.certificates }}
    - { name: certificate-{{ $index }}, secret: { secretName: {{ $secret }}, defaultMode: 288 } }
    {{- end }}
    - { name: tmp, emptyDir: { sizeLimit: 64Mi } }
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: {{ .Values.topologySpread.node }}
      labelSelector: { matchLabels: { {{ include "messina.selector" . | replace "\n" ", " }} } }
    - maxSkew: 1
      topologyKey: topology.kubernetes.io/zone
      whenUnsatisfiable: {{ .Values.topologySpread.zone }}
      labelSelector: { matchLabels: { {{ include "messina.selector" . | replace "\n" ", " }} } }
{{- end }}
