{{- /* _helpers.tpl - names, labels, images, sums: what several objects must agree on is said once, here. */ -}}

{{- define "diptych.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "diptych.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "diptych.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "diptych.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* (list . "coordinator"): what a selector holds, and nothing that an upgrade changes. */ -}}
{{- define "diptych.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "diptych.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- /* Of pods: nothing that changes while the program stays the same, for a changed pod is a pod that ends. */ -}}
{{- define "diptych.podLabels" -}}
{{- $root := index . 0 -}}
{{ include "diptych.selector" . }}
app.kubernetes.io/part-of: diptych
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "diptych.labels" -}}
{{- $root := index . 0 -}}
{{ include "diptych.podLabels" . }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /* (list . "coordinator" "name-suffix" [annotations]): metadata of an object. */ -}}
{{- define "diptych.metadata" -}}
{{- $root := index . 0 -}}
name: {{ include "diptych.fullname" $root }}{{ with index . 2 }}-{{ . }}{{ end }}
namespace: {{ $root.Release.Namespace }}
labels: {{- include "diptych.labels" . | nindent 2 }}
{{- $annotations := $root.Values.commonAnnotations }}
{{- if gt (len .) 3 }}{{ $annotations = merge (dict) (index . 3) $annotations }}{{ end }}
{{- with $annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "diptych.cluster" -}}
{{- default (printf "%s.%s" .Release.Namespace (include "diptych.fullname" .) | trunc 63 | trimSuffix "-") .Values.clusterName -}}
{{- end -}}

{{- define "diptych.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "diptych.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* ---- images ---- */ -}}

{{- define "diptych.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag -}}
{{- .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ $tag }}{{ end -}}
{{- end -}}

{{- define "diptych.workerImage" -}}
{{- if eq .Values.backend "cuda" -}}
{{- $cuda := .Values.image.cuda -}}
{{- $tag := default (printf "%s-cuda" (default .Chart.AppVersion .Values.image.tag)) $cuda.tag -}}
{{- .Values.image.repository }}{{ if $cuda.digest }}@{{ $cuda.digest }}{{ else }}:{{ $tag }}{{ end -}}
{{- else -}}
{{- include "diptych.image" . -}}
{{- end -}}
{{- end -}}

{{- define "diptych.etcdImage" -}}
{{- with .Values.etcd.devServer.image }}{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}{{ end -}}
{{- end -}}

{{- /* ---- what is on ---- An empty text is no, anything else is yes. */ -}}

{{- /* `off` without quotes is false in YAML. */ -}}
{{- define "diptych.tls" -}}
{{- if not (has (toString .Values.tls.mode) (list "off" "false")) -}}on{{- end -}}
{{- end -}}

{{- define "diptych.etcdDev" -}}
{{- $enabled := toString .Values.etcd.devServer.enabled -}}
{{- if or (eq $enabled "true") (and (eq $enabled "auto") (not .Values.etcd.endpoints)) -}}on{{- end -}}
{{- end -}}

{{- define "diptych.etcd" -}}
{{- if .Values.etcd.endpoints -}}
{{- join "," .Values.etcd.endpoints -}}
{{- else if include "diptych.etcdDev" . -}}
{{- printf "http://%s-etcd-dev.%s.svc:2379" (include "diptych.fullname" .) .Release.Namespace -}}
{{- end -}}
{{- end -}}

{{- define "diptych.etcdIsTls" -}}
{{- if hasPrefix "https://" (include "diptych.etcd" .) -}}on{{- end -}}
{{- end -}}

{{- define "diptych.modelVerify" -}}
{{- if or .Values.model.verify .Values.model.digest .Values.model.manifest.configMap (eq .Values.model.source "init") -}}on{{- end -}}
{{- end -}}

{{- /* (list . "ar"): whether a scaler, not the chart, decides how many pods there are. */ -}}
{{- define "diptych.isScaled" -}}
{{- $pool := index (index . 0).Values (index . 1) -}}
{{- if ne $pool.autoscaling.mode "none" -}}on{{- end -}}
{{- end -}}

{{- /* (list . "ar"): the fewest pods that there will be. */ -}}
{{- define "diptych.fewest" -}}
{{- $pool := index (index . 0).Values (index . 1) -}}
{{- if include "diptych.isScaled" . -}}
{{- int64 $pool.autoscaling.minReplicas -}}
{{- else -}}
{{- int64 (default $pool.replicas $pool.groups) -}}
{{- end -}}
{{- end -}}

{{- /* ---- addresses ---- */ -}}

{{- define "diptych.server" -}}
{{- printf "%s.%s.svc:%d" (include "diptych.fullname" .) .Release.Namespace (int64 .Values.coordinator.service.port) -}}
{{- end -}}

{{- /* The one name that all certificates carry: peers are called by address, and addresses are in no certificate. */ -}}
{{- define "diptych.tlsName" -}}
{{- default (printf "%s.%s.svc" (include "diptych.fullname" .) .Release.Namespace) .Values.tls.name -}}
{{- end -}}

{{- define "diptych.podAddress" -}}
{{- if hasPrefix "[" .Values.network.listenAddress -}}[$(POD_IP)]{{- else -}}$(POD_IP){{- end -}}
{{- end -}}

{{- /* (list . "coordinator"): name of the secret with that component's certificate. */ -}}
{{- define "diptych.tlsSecret" -}}
{{- $root := index . 0 -}}
{{- if eq (toString $root.Values.tls.mode) "existingSecret" -}}
{{- index $root.Values.tls.existingSecret (index . 1) -}}
{{- else -}}
{{- printf "%s-%s-tls" (include "diptych.fullname" $root) (index . 1) -}}
{{- end -}}
{{- end -}}

{{- /* ---- the model ---- */ -}}

{{- define "diptych.modelName" -}}
{{- $last := .Values.model.path | trimSuffix "/" | splitList "/" | last -}}
{{- default (default (ternary "demo" "model" (eq .Values.model.source "demo")) $last) .Values.model.name -}}
{{- end -}}

{{- define "diptych.modelPath" -}}
{{- if eq .Values.model.source "demo" -}}
/usr/share/diptych/models/demo
{{- else -}}
/models/{{ include "diptych.modelName" . }}
{{- end -}}
{{- end -}}

{{- /* ---- sums: a pod may live on for as long as all that its end takes ---- */ -}}

{{- define "diptych.coordinatorGrace" -}}
{{- with .Values.coordinator -}}
{{- add (int64 .preStopSleepSeconds) (int64 .drainSeconds) (int64 .exitMarginSeconds) -}}
{{- end -}}
{{- end -}}

{{- define "diptych.workerGrace" -}}
{{- add (int64 .drainSeconds) (int64 .exitMarginSeconds) -}}
{{- end -}}

{{- /* Probes that fail for model.loadTimeoutSeconds end a start. */ -}}
{{- define "diptych.startupFailures" -}}
{{- $period := int64 .Values.probes.periodSeconds -}}
{{- div (add (int64 .Values.model.loadTimeoutSeconds) $period -1) $period -}}
{{- end -}}
