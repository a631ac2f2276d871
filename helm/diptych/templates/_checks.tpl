{{- /* _checks.tpl - combinations of values that cannot work, refused in words before anything is made of them. */ -}}

{{- define "diptych.intOrPercent" -}}
{{- if kindIs "string" . -}}{{ if hasSuffix "%" . }}{{ . | quote }}{{ else }}{{ int64 . }}{{ end }}{{- else -}}{{ int64 . }}{{- end -}}
{{- end -}}

{{- /* (list VALUE COUNT): how many pods an integer or a percentage is, rounded up as Kubernetes does. */ -}}
{{- define "diptych.countOf" -}}
{{- $value := toString (index . 0) -}}
{{- if hasSuffix "%" $value -}}
{{- div (add (mul (trimSuffix "%" $value | int64) (index . 1)) 99) 100 -}}
{{- else -}}{{- int64 (index . 0) -}}{{- end -}}
{{- end -}}

{{- define "diptych.checks" -}}
{{- include "diptych.checkEtcd" . -}}
{{- include "diptych.checkModel" . -}}
{{- include "diptych.checkTls" . -}}
{{- include "diptych.checkBudgets" . -}}
{{- include "diptych.checkPanels" . -}}
{{- end -}}

{{- define "diptych.checkEtcd" -}}
{{- if and .Values.etcd.endpoints (eq (toString .Values.etcd.devServer.enabled) "true") -}}
{{- fail "etcd.endpoints names your etcd, so the development etcd must not run beside it: leave etcd.devServer.enabled at auto, or set it to false" -}}
{{- end -}}
{{- if and (gt (int64 .Values.coordinator.replicas) 1) (not (include "diptych.etcd" .)) -}}
{{- fail (printf "coordinator.replicas is %d, and without etcd nobody can choose the leader: name your etcd in etcd.endpoints, or set coordinator.replicas to 1" (int64 .Values.coordinator.replicas)) -}}
{{- end -}}
{{- $https := 0 -}}
{{- range .Values.etcd.endpoints }}{{ if hasPrefix "https://" . }}{{ $https = add $https 1 }}{{ end }}{{ end -}}
{{- if and (gt $https 0) (ne (int $https) (len .Values.etcd.endpoints)) -}}
{{- fail "etcd.endpoints mixes http and https: one set of certificates serves them all, so all must be https" -}}
{{- end -}}
{{- if and .Values.etcd.tls.existingSecret (not (include "diptych.etcdIsTls" .)) -}}
{{- fail "etcd.tls.existingSecret is set, but etcd.endpoints are http: name them with https://, or take the secret away" -}}
{{- end -}}
{{- if and (include "diptych.etcdIsTls" .) (not .Values.etcd.tls.existingSecret) -}}
{{- fail "etcd.endpoints are https, so etcd.tls.existingSecret must name a secret with ca.crt (and tls.crt, tls.key for client certificates)" -}}
{{- end -}}
{{- if and .Values.etcd.auth.existingSecret (include "diptych.etcdDev" .) -}}
{{- fail "etcd.auth.existingSecret is set, but the development etcd knows no users: name your etcd in etcd.endpoints" -}}
{{- end -}}
{{- end -}}

{{- define "diptych.checkModel" -}}
{{- $model := .Values.model -}}
{{- if and (eq $model.source "pvc") (not $model.pvc.claimName) -}}
{{- fail "model.source is pvc, so model.pvc.claimName must name the claim" -}}
{{- end -}}
{{- if and (eq $model.source "image") (not $model.image.reference) -}}
{{- fail "model.source is image, so model.image.reference must name the OCI image, best by digest" -}}
{{- end -}}
{{- if and (eq $model.source "image") (semverCompare "<1.33.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "model.source is image, and this Kubernetes (%s) has no image volumes in use: 1.33 and newer have them; take pvc, or init" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if and (eq $model.source "hostPath") (not $model.hostPath.path) -}}
{{- fail "model.source is hostPath, so model.hostPath.path must name the folder on the nodes" -}}
{{- end -}}
{{- if eq $model.source "init" -}}
{{- if not $model.init.image -}}
{{- fail "model.source is init, so model.init.image must name the image of the step that fills /models" -}}
{{- end -}}
{{- if not (or $model.digest $model.manifest.configMap) -}}
{{- fail "model.source is init: what a step fetches must be known, so set model.digest (diptych model verify prints it) or model.manifest.configMap" -}}
{{- end -}}
{{- end -}}
{{- if and (eq $model.source "demo") (or $model.path $model.name) -}}
{{- fail "model.source is demo, which lies in the image: model.path and model.name are for the other sources" -}}
{{- end -}}
{{- end -}}

{{- define "diptych.checkTls" -}}
{{- if eq (toString .Values.tls.mode) "existingSecret" -}}
{{- range $component := list "coordinator" "ar" "diffusion" -}}
{{- if not (index $.Values.tls.existingSecret $component) -}}
{{- fail (printf "tls.mode is existingSecret, so tls.existingSecret.%s must name a secret with tls.crt, tls.key and ca.crt" $component) -}}
{{- end -}}
{{- end -}}
{{- range $pool := list "ar" "diffusion" -}}
{{- $scaling := (index $.Values $pool).autoscaling -}}
{{- if and (eq $scaling.mode "keda") (not $scaling.authenticationRef) (not $.Values.tls.existingSecret.client) -}}
{{- fail (printf "%s.autoscaling.mode is keda and tls.mode is existingSecret: KEDA needs a certificate to show, in tls.existingSecret.client or by %s.autoscaling.authenticationRef" $pool $pool) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.auth.workerToken.existingSecret (not .Values.auth.tokens.existingSecret) -}}
{{- fail "auth.workerToken is set, but auth.tokens.existingSecret is not: without a file of tokens nobody asks for one" -}}
{{- end -}}
{{- end -}}

{{- define "diptych.checkBudgets" -}}
{{- $coordinator := .Values.coordinator -}}
{{- $replicas := int64 $coordinator.replicas -}}
{{- if and $coordinator.pdb.enabled (gt $replicas 1) -}}
{{- if ge (include "diptych.countOf" (list $coordinator.pdb.minAvailable $replicas) | int64) $replicas -}}
{{- fail (printf "coordinator.pdb.minAvailable %v of %d replicas would block every node drain: at least one must be allowed to go" $coordinator.pdb.minAvailable $replicas) -}}
{{- end -}}
{{- end -}}
{{- range $pool := list "ar" "diffusion" -}}
{{- $values := index $.Values $pool -}}
{{- if $values.pdb.enabled -}}
{{- if lt (include "diptych.countOf" (list $values.pdb.maxUnavailable 100) | int64) 1 -}}
{{- fail (printf "%s.pdb.maxUnavailable %v would block every node drain: at least one must be allowed to go" $pool $values.pdb.maxUnavailable) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "diptych.checkPanels" -}}
{{- if and .Values.ar.multiNode.enabled (lt (int64 .Values.ar.tensorParallel) 2) -}}
{{- fail "ar.multiNode spreads the ranks of one group over nodes, so ar.tensorParallel must be 2 or more" -}}
{{- end -}}
{{- if and (not (include "diptych.etcd" .)) (or (ne (include "diptych.isScaled" (list . "ar")) "") (ne (include "diptych.isScaled" (list . "diffusion")) "")) -}}
{{- fail "autoscaling without etcd is not offered: workers that come and go must find the leader" -}}
{{- end -}}
{{- range $pool := list "ar" "diffusion" -}}
{{- $scaling := (index $.Values $pool).autoscaling -}}
{{- if ne $scaling.mode "none" -}}
{{- if lt (int64 $scaling.maxReplicas) (int64 $scaling.minReplicas) -}}
{{- fail (printf "%s.autoscaling.maxReplicas is %d, less than minReplicas %d" $pool (int64 $scaling.maxReplicas) (int64 $scaling.minReplicas)) -}}
{{- end -}}
{{- if and (eq (int64 $scaling.minReplicas) 0) (eq $scaling.mode "hpa") -}}
{{- fail (printf "%s.autoscaling.minReplicas is 0, and an HPA cannot wake up from none: take mode keda, or at least 1" $pool) -}}
{{- end -}}
{{- if and (eq (int64 $scaling.minReplicas) 0) (eq (int64 $.Values.limits.holdSeconds) 0) -}}
{{- fail (printf "%s.autoscaling.minReplicas is 0, and requests that find no worker are refused: set limits.holdSeconds to how long they may wait for the first" $pool) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $ports := .Values.network.ports -}}
{{- $grpc := list (int64 $ports.grpc) -}}
{{- if or (eq (int64 $ports.http) (int64 $ports.grpc)) (and (ge (int64 $ports.http) (int64 $ports.worker)) (lt (int64 $ports.http) (add (int64 $ports.worker) (include "diptych.ranks" (list . "ar") | int64)))) -}}
{{- fail (printf "network.ports.http %d is also a port of gRPC in the same pod (ranks take network.ports.worker and those above it)" (int64 $ports.http)) -}}
{{- end -}}
{{- end -}}
