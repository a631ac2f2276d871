{{- /* _pod.tpl - the parts of pods: coordinators, workers and checks are the same program under the same restrictions. */ -}}

{{- define "diptych.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ int64 .Values.podSecurity.runAsUser }}
runAsGroup: {{ int64 .Values.podSecurity.runAsGroup }}
fsGroup: {{ int64 .Values.podSecurity.fsGroup }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "diptych.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- /* (list . "ar"): where and as whom a component's pods run. */ -}}
{{- define "diptych.placement" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index $root.Values $component -}}
serviceAccountName: {{ include "diptych.serviceAccount" $root }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext: {{- include "diptych.podSecurityContext" $root | nindent 2 }}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets: {{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $tolerations := $values.tolerations }}
{{- if and (eq $root.Values.backend "cuda") (ne $component "coordinator") }}
{{- $tolerations = concat $root.Values.gpu.tolerations $tolerations }}
{{- end }}
{{- with $tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $values.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml $values.topologySpreadConstraints | nindent 2 }}
{{- else if $values.topologySpread.enabled }}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "diptych.selector" (list $root $component) | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "diptych.podMetadata" -}}
{{- $root := index . 0 -}}
{{- $values := index $root.Values (index . 1) -}}
labels: {{- include "diptych.podLabels" . | nindent 2 }}
{{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $annotations := merge (dict) $values.podAnnotations $root.Values.commonAnnotations }}
{{- with $annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* A pod's own name and address, for flags that refer to them. */ -}}
{{- define "diptych.env" -}}
{{- $root := index . 0 -}}
{{- $values := index $root.Values (index . 1) -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- with $root.Values.etcd.auth.existingSecret }}
- name: DIPTYCH_ETCD_USER
  valueFrom: {secretKeyRef: {name: {{ . }}, key: username}}
{{- end }}
{{- with $values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Flags that coordinators and workers share. */ -}}
{{- define "diptych.commonArgs" -}}
{{- $root := . -}}
{{- $network := $root.Values.network -}}
- --model={{ include "diptych.modelPath" $root }}
- --name=$(POD_NAME)
- --cluster={{ include "diptych.cluster" $root }}
- --http={{ $network.listenAddress }}:{{ int64 $network.ports.http }}
- --log-level={{ $root.Values.log.level }}
- --log-format={{ $root.Values.log.format }}
{{- if include "diptych.tls" $root }}
- --tls-cert=/etc/diptych/tls/tls.crt
- --tls-key=/etc/diptych/tls/tls.key
- --tls-ca=/etc/diptych/tls/ca.crt
{{- end }}
{{- with include "diptych.etcd" $root }}
- --etcd={{ . }}
{{- end }}
{{- if include "diptych.etcdIsTls" $root }}
{{- if $root.Values.etcd.tls.existingSecret }}
- --etcd-ca=/etc/diptych/etcd/ca.crt
{{- if $root.Values.etcd.tls.clientCertificate }}
- --etcd-cert=/etc/diptych/etcd/tls.crt
- --etcd-key=/etc/diptych/etcd/tls.key
{{- end }}
{{- end }}
{{- end }}
{{- if $root.Values.etcd.auth.existingSecret }}
- --etcd-password-file=/etc/diptych/etcd-user/password
{{- end }}
{{- end -}}

{{- /* Mounts of what the flags above name. */ -}}
{{- define "diptych.commonMounts" -}}
{{- $root := index . 0 -}}
{{- $values := index $root.Values (index . 1) -}}
{{- with include "diptych.modelMount" $root }}
{{- trim . }}
{{- end }}
- name: scratch
  mountPath: /tmp
{{- if include "diptych.tls" $root }}
- name: tls
  mountPath: /etc/diptych/tls
  readOnly: true
{{- end }}
{{- if and (include "diptych.etcdIsTls" $root) $root.Values.etcd.tls.existingSecret }}
- name: etcd
  mountPath: /etc/diptych/etcd
  readOnly: true
{{- end }}
{{- if $root.Values.etcd.auth.existingSecret }}
- name: etcd-user
  mountPath: /etc/diptych/etcd-user
  readOnly: true
{{- end }}
{{- with $values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "diptych.commonVolumes" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index $root.Values $component -}}
{{- with include "diptych.modelVolume" $root }}
{{- trim . }}
{{- end }}
- name: scratch
  emptyDir: {sizeLimit: 64Mi}
{{- if include "diptych.tls" $root }}
- name: tls
  secret:
    secretName: {{ include "diptych.tlsSecret" (list $root $component) }}
    defaultMode: 0440
{{- end }}
{{- if and (include "diptych.etcdIsTls" $root) $root.Values.etcd.tls.existingSecret }}
- name: etcd
  secret:
    secretName: {{ $root.Values.etcd.tls.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- with $root.Values.etcd.auth.existingSecret }}
- name: etcd-user
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- with $values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* ---- the model ---- */ -}}

{{- define "diptych.modelMount" -}}
{{- with .Values.model -}}
{{- if ne .source "demo" -}}
- name: model
  mountPath: {{ include "diptych.modelPath" $ }}
  {{- with .path }}
  subPath: {{ trimSuffix "/" . }}
  {{- end }}
  readOnly: true
{{ end -}}
{{- end -}}
{{- end -}}

{{- define "diptych.modelVolume" -}}
{{- with .Values.model -}}
{{- if ne .source "demo" -}}
- name: model
  {{- if eq .source "pvc" }}
  persistentVolumeClaim: {claimName: {{ .pvc.claimName }}, readOnly: true}
  {{- else if eq .source "image" }}
  image: {reference: {{ .image.reference | quote }}, pullPolicy: {{ .image.pullPolicy }}}
  {{- else if eq .source "hostPath" }}
  hostPath: {path: {{ .hostPath.path | quote }}, type: Directory}
  {{- else }}
  emptyDir: {sizeLimit: {{ .init.sizeLimit }}}
  {{- end }}
{{ end -}}
{{- end -}}
{{- with .Values.model.manifest.configMap -}}
- name: manifest
  configMap: {name: {{ . }}}
{{ end -}}
{{- end -}}

{{- /* (list . image): the steps before a start: fill the volume, then read every byte of it. */ -}}
{{- define "diptych.modelSteps" -}}
{{- $root := index . 0 -}}
{{- $model := $root.Values.model -}}
{{- if eq $model.source "init" }}
- name: model-fill
  image: {{ $model.init.image | quote }}
  {{- with $model.init.command }}
  command: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $model.init.args }}
  args: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $model.init.env }}
  env: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $model.init.envFrom }}
  envFrom: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext: {{- include "diptych.containerSecurityContext" $root | nindent 4 }}
  resources: {{- toYaml $model.init.resources | nindent 4 }}
  volumeMounts:
    - name: model
      mountPath: /models
    - name: scratch
      mountPath: /tmp
{{- end }}
{{- if include "diptych.modelVerify" $root }}
- name: model-verify
  image: {{ index . 1 }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  args:
    - model
    - verify
    - --model={{ include "diptych.modelPath" $root }}
    {{- with $model.digest }}
    - --digest={{ . }}
    {{- end }}
    {{- if $model.manifest.configMap }}
    - --manifest=/etc/diptych/manifest/{{ $model.manifest.key }}
    {{- end }}
  securityContext: {{- include "diptych.containerSecurityContext" $root | nindent 4 }}
  resources: {{- toYaml $model.init.resources | nindent 4 }}
  volumeMounts:
    {{- with include "diptych.modelMount" $root }}
    {{- . | trim | nindent 4 }}
    {{- end }}
    {{- if $model.manifest.configMap }}
    - name: manifest
      mountPath: /etc/diptych/manifest
      readOnly: true
    {{- end }}
    - name: scratch
      mountPath: /tmp
{{- end }}
{{- end -}}

{{- /* ---- probes ----
The pages are plain HTTP on a port of their own, served by a thread that nothing blocks: what is busy is never dead. */ -}}

{{- define "diptych.probes" -}}
{{- $probes := .Values.probes -}}
startupProbe:
  httpGet: {path: /startupz, port: http}
  periodSeconds: {{ int64 $probes.periodSeconds }}
  timeoutSeconds: {{ int64 $probes.timeoutSeconds }}
  failureThreshold: {{ include "diptych.startupFailures" . }}
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: {{ int64 $probes.periodSeconds }}
  timeoutSeconds: {{ int64 $probes.timeoutSeconds }}
  failureThreshold: {{ int64 $probes.readinessFailures }}
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: {{ int64 $probes.periodSeconds }}
  timeoutSeconds: {{ int64 $probes.timeoutSeconds }}
  failureThreshold: {{ int64 $probes.livenessFailures }}
{{- end -}}
