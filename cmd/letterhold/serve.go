package main

import "github.com/spf13/cobra"

func serveCmd(e *env) *cobra.Command  { return &cobra.Command{Use: "serve"} }
func unlockCmd(e *env) *cobra.Command { return &cobra.Command{Use: "unlock"} }
func tryCmd(e *env) *cobra.Command    { return &cobra.Command{Use: "try"} }
func doctorCmd(e *env) *cobra.Command { return &cobra.Command{Use: "doctor"} }
func configCmd(e *env) *cobra.Command { return &cobra.Command{Use: "config"} }
