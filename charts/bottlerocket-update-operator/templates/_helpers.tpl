{{- define "operator.labels" -}}
app.kubernetes.io/name: bottlerocket-update-operator
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "operator.selector" -}}
app.kubernetes.io/name: bottlerocket-update-operator
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "operator.image" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{/* What is to run again may do so on the one node there is, which the operator has cordoned. */}}
{{- define "operator.tolerations" -}}
- {key: node.kubernetes.io/unschedulable, operator: Exists, effect: NoSchedule}
{{- end }}

{{- define "operator.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* glibc gives back what is freed at once, from a page on. Else the buffers of 50 connections of one moment stay for good. */}}
{{- define "operator.allocator" -}}
- name: GLIBC_TUNABLES
  value: glibc.malloc.mmap_threshold=4096:glibc.malloc.trim_threshold=65536:glibc.malloc.top_pad=16384
{{- end }}
